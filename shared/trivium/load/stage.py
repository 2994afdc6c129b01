"""One stage: a rate for a time, with the readiness probe and the server's memory beside it."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from trivium.load.arrivals import Arrivals, arrival_times
from trivium.load.connection import resolve
from trivium.load.exchange import Exchange, Limits
from trivium.load.result import Percentiles, StageResult, count_outcomes, latencies
from trivium.load.side import make_probe, read_probe, read_rss
from trivium.load.target import Target

SHOW_S = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """How load is made; with a P99 lateness above `lateness_ms` the generator counts as saturated."""

    arrivals: Arrivals = Arrivals.POISSON
    seed: int = 0
    connections: int = 2000
    timeout_ms: float = 2000.0
    lateness_ms: float = 10.0


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a running stage is: seconds of its time, and requests."""

    label: str
    rate: float
    seconds: float
    elapsed_s: float = 0.0
    sent: int = 0
    resolved: int = 0


def _ignore(_: object) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """Who watches: called four times a second and after each stage; setting `stop` ends the run."""

    on_progress: Callable[[StageProgress], None] = _ignore
    on_stage: Callable[[StageResult], None] = _ignore
    stop: asyncio.Event = field(default_factory=asyncio.Event)


async def run_stage(
    target: Target,
    rate: float,
    seconds: float,
    plan: Plan | None = None,
    monitor: Monitor | None = None,
    label: str = "stage",
) -> StageResult:
    """Offers `rate` requests a second for `seconds`, then waits for what is under way.

    Every request that was due is in the outcomes, whatever became of it. Once `monitor.stop` is set
    no more are sent, and the result is of those that were.

    Raises:
        OSError: the target's name does not resolve.
    """
    plan, monitor = plan or Plan(), monitor or Monitor()
    times = arrival_times(plan.arrivals, rate, seconds, plan.seed)
    ip = await resolve(target.address)
    limits = Limits(plan.connections, plan.timeout_ms / 1000)
    load = Exchange(target.address, ip, target.requests, times, limits, target.unless)
    watched = StageProgress(label, rate, seconds)
    probe = await make_probe(target.ready, seconds)
    rss = await read_rss(target.metrics)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with _no_garbage_collection():
            cpu_s = time.process_time()
            took_s = await _run(load, probe, watched, monitor)
            cpu_s = time.process_time() - cpu_s
    finally:
        load.close()
        if probe is not None:
            probe.close()
    result = replace(
        _result(load, watched, plan, target.deadline_ms, took_s),
        started_at=started_at,
        generator_cpu_us=round(cpu_s * 1e6 / max(1, load.sent), 1),
        readiness=read_probe(probe),
        rss_before_bytes=rss,
        rss_after_bytes=await read_rss(target.metrics),
        interrupted=monitor.stop.is_set(),
    )
    monitor.on_stage(result)
    return result


async def _run(load: Exchange, probe: Exchange | None, watched: StageProgress, monitor: Monitor) -> float:
    """Returns the seconds in which requests were sent."""
    took_s = 0.0
    load.start()
    if probe is not None:
        probe.start()
    while not load.done.done():
        await asyncio.wait([load.done], timeout=SHOW_S)
        elapsed_s = min(watched.seconds, time.monotonic() - load.began)
        monitor.on_progress(replace(watched, elapsed_s=elapsed_s, sent=load.sent, resolved=load.resolved))
        if monitor.stop.is_set() and not took_s:
            took_s = elapsed_s
            load.stop()
    if probe is not None:
        probe.stop()
        await asyncio.wait([probe.done])
    return took_s or watched.seconds


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection stops everything for tens of milliseconds, which would look like latency."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _result(
    load: Exchange, watched: StageProgress, plan: Plan, deadline_ms: float, took_s: float
) -> StageResult:
    outcomes = count_outcomes(load.samples, deadline_ms)
    good = outcomes.get("ok", 0)
    lateness = Percentiles.of(load.samples.lateness_ms)
    return StageResult(
        label=watched.label,
        rate=round(watched.rate, 3),
        seconds=round(took_s, 3),
        started_at="",
        sent=load.sent,
        offered_per_s=round(load.sent / took_s, 3),
        goodput_per_s=round(good / took_s, 3),
        goodput_share=round(good / max(1, load.sent), 6),
        outcomes=outcomes,
        latency=Percentiles.of(latencies(load.samples, refused=False)),
        refusal_latency=Percentiles.of(latencies(load.samples, refused=True)),
        lateness=lateness,
        generator_saturated=lateness is not None and lateness.p99_ms > plan.lateness_ms,
        generator_cpu_us=0.0,
        peak_connections=load.peak_connections,
    )
