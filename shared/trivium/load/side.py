"""Beside the load: is the target there, is it ready, how much memory has it."""

import asyncio
import json
import math
import re
import time
from dataclasses import replace

from trivium.errors import Unavailable
from trivium.load.arrivals import Arrivals, arrival_times
from trivium.load.connection import Answer, fetch, resolve
from trivium.load.exchange import Exchange, Limits
from trivium.load.result import Percentiles, Readiness
from trivium.load.target import Call, Target

PROBES_PER_S = 10.0
COLD_S = 10.0
SIDE_S = 2.0
STEADY = 0.8
RSS = re.compile(rb"^process_resident_memory_bytes(?:\{[^}]*\})? ([0-9.eE+]+)", re.MULTILINE)


async def check_target(target: Target) -> Target:
    """Sends one real request; returns the target without the side endpoints that it does not have.

    A server that refuses is asked again for 10 s: it may be warming up.

    Raises:
        Unavailable: no answer, or another than 2xx; with the URL and what the server said.
    """
    until = time.monotonic() + COLD_S
    while True:
        answer = await _first(target)
        if 200 <= answer.status < 300:
            break
        if answer.status not in (429, 503, 504) or time.monotonic() > until:
            raise Unavailable(f"{target.url}: answered {answer.status}: {_said(answer.body)}")
        await asyncio.sleep(0.2)
    ready = await _there(target.ready)
    metrics = target.metrics if await read_rss(target.metrics) is not None else None
    return replace(target, ready=ready, metrics=metrics)


async def settle(target: Target, within_s: float = 30.0) -> bool:
    """Waits until nothing of an overload is left in the target; False if that takes too long.

    It is over when three requests one after the other are answered in time, or in a time that
    shrinks no more: then the target is slower than the deadline without any load.
    """
    call = Call(target.url, target.address, target.requests[0])
    until = time.monotonic() + within_s
    good, before_ms = 0, math.inf
    while good < 3:
        if time.monotonic() > until:
            return False
        took_ms = await _took_ms(call)
        steady = took_ms <= target.deadline_ms or STEADY * before_ms < took_ms < math.inf
        good = good + 1 if steady else 0
        before_ms = took_ms
        await asyncio.sleep(0.02 if good else 0.1)
    return True


async def _took_ms(call: Call) -> float:
    """Milliseconds of a 2xx; infinity of anything else."""
    began = time.monotonic()
    try:
        status = (await fetch(call, SIDE_S)).status
    except OSError:
        return math.inf
    return (time.monotonic() - began) * 1000 if 200 <= status < 300 else math.inf


async def make_probe(call: Call | None, seconds: float) -> Exchange | None:
    """A prober of the readiness endpoint, ten times a second on connections of its own."""
    if call is None:
        return None
    times = arrival_times(Arrivals.CONSTANT, PROBES_PER_S, seconds)
    limits = Limits(connections=32, timeout_s=SIDE_S)
    return Exchange(call.address, await resolve(call.address), [call.raw], times, limits)


def read_probe(probe: Exchange | None) -> Readiness | None:
    """What a finished prober measured."""
    latency = Percentiles.of(probe.samples.latency_ms) if probe else None
    if probe is None or latency is None:
        return None
    return Readiness(latency, failed=sum(status != 200 for status in probe.samples.status))


async def read_rss(call: Call | None) -> int | None:
    """Resident bytes of the server's process as its Prometheus metrics tell; None if they don't."""
    if call is None:
        return None
    try:
        answer = await fetch(call, SIDE_S)
    except OSError:
        return None
    found = RSS.search(answer.body) if answer.status == 200 else None
    return int(float(found[1])) if found else None


async def _first(target: Target) -> Answer:
    try:
        return await fetch(Call(target.url, target.address, target.requests[0]), 30.0)
    except OSError as error:
        reason = "no answer within 30 s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Unavailable(f"{target.url}: not reachable: {reason}") from error


async def _there(call: Call | None) -> Call | None:
    try:
        found = call is not None and (await fetch(call, SIDE_S)).status not in (401, 403, 404, 405)
    except OSError:
        return None
    return call if found else None


def _said(body: bytes) -> str:
    """What an error body tells, on one line."""
    try:
        told = json.loads(body)
    except ValueError:
        told = body.decode(errors="replace")
    if isinstance(told, dict):
        told = next((told[name] for name in ("error", "detail", "message") if name in told), told)
    return " ".join(str(told).split())[:300] or "nothing"
