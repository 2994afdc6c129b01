"""`make bench-gateway`: what our OpenAI-compatible endpoint costs, beside a bare pass-through and its peers.

Every contender is one process that asks the same stub, a compiled server of static answers, and is asked by
a compiled client; `direct` is the stub without a gateway. In each round all contenders take turns at the
same load, in another order each round. What is told is the median over the rounds: of a figure, of its ratio
to the pass-through's in the same round, or of what it adds to the direct one's. Ours runs with everything on:
keys, routes, breakers, ledger, metrics, recording. A peer that `scripts/setup-gateway-peers` installed takes
part. What the contenders wrote is in `.bench-gateway`.

Modes: `cpu` (closed loops), `latency` (one connection), `upstream50` (an upstream of 50 ms), `stream` (paced
events), `rate` (200 requests a second, open loop); all of them by default.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from peers.gateways import CONTENDERS, OURS, YARDSTICK, Contender, Failed, clean_environment
from rich.console import Console

ROOT = Path(__file__).parents[1]
STUB = ROOT / "scripts/peers/stub"
LOGS = ROOT / ".bench-gateway"
DIRECT = "direct"
QUESTION = "Where is my order 4711? It was to arrive on Monday."
MESSAGES = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": QUESTION}]
EVENTS = 66
"""Of a stream: 64 chunks, the usage, [DONE]."""
START_S, IDLE_S = 120.0, 0.25
console = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Shape:
    """A load, and how the stub answers it. A rate makes it an open loop."""

    title: str
    connections: int
    rate: int = 0
    stream: bool = False
    delay_ms: int = 0
    chunk_delay_us: int = 0


@dataclass(frozen=True)
class Sample:
    """What one contender did in one round."""

    requests: int
    per_s: float
    cpu_us: float
    event_cpu_us: float
    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True)
class Figure:
    """A column: of a sample, the direct one's and the pass-through's of the same round."""

    title: str
    value: Callable[[Sample, Sample, Sample], float]
    form: str = ",.2f"


CPU = [
    Figure("CPU µs a request", lambda own, direct, bare: own.cpu_us, ",.0f"),
    Figure("its ratio", lambda own, direct, bare: own.cpu_us / bare.cpu_us),
]
RATE = [
    Figure("requests/s", lambda own, direct, bare: own.per_s, ",.0f"),
    Figure("its ratio", lambda own, direct, bare: own.per_s / bare.per_s),
]
ADDED = [
    Figure("P50 ms", lambda own, direct, bare: own.p50_ms),
    Figure("added P50", lambda own, direct, bare: own.p50_ms - direct.p50_ms),
    Figure("ratio of added", lambda own, direct, bare: _added(own, direct) / _added(bare, direct)),
    Figure("P99 ms", lambda own, direct, bare: own.p99_ms),
    Figure("added P99", lambda own, direct, bare: own.p99_ms - direct.p99_ms),
]
PER_EVENT = [
    Figure("CPU µs an event", lambda own, direct, bare: own.event_cpu_us, ",.1f"),
    Figure("its ratio", lambda own, direct, bare: own.event_cpu_us / bare.event_cpu_us),
    Figure("streams/s", lambda own, direct, bare: own.per_s, ",.1f"),
    *ADDED,
]
MODES: dict[str, tuple[list[Shape], list[Figure]]] = {
    "cpu": ([Shape(f"closed loop, {n} connections", n) for n in (1, 16, 64)], CPU + RATE),
    "latency": ([Shape("one connection", 1)], ADDED),
    "upstream50": (
        [Shape(f"upstream of 50 ms, {n} connections", n, delay_ms=50) for n in (16, 64)],
        ADDED + CPU,
    ),
    "stream": (
        [Shape("streams of 64 chunks, 2 ms apart, 4 connections", 4, stream=True, chunk_delay_us=2000)],
        PER_EVENT,
    ),
    "rate": ([Shape("200 requests a second, open loop", 128, rate=200)], ADDED + CPU),
}


@dataclass
class Server:
    """A running contender."""

    name: str
    port: int
    process: psutil.Popen
    headers: dict[str, str]
    log: Path

    def request(self, stream: bool) -> bytes:
        """The whole request, as bytes."""
        asked: dict[str, Any] = {"model": "route/bench", "messages": MESSAGES, "max_tokens": 64}
        body = json.dumps(asked | {"stream": True} if stream else asked)
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", **self.headers}
        lines = [f"{name}: {value}" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
        return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", body]).encode()

    def cpu_s(self) -> float:
        """CPU time of the process and those that it started."""
        total = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def cpu_s_when_idle(self) -> float:
        """The same, once what it does in the background has ended, such as writing to the database."""
        before = self.cpu_s()
        for _ in range(40):
            time.sleep(IDLE_S)
            after = self.cpu_s()
            if after - before <= 0.02:
                return after
            before = after
        return before

    def check(self) -> None:
        """It answers both kinds of requests whole.

        Raises:
            Failed: it does not.
        """
        for stream in (False, True):
            wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            head, _, body = self.request(stream).partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            wire.request("POST", "/v1/chat/completions", body, headers)
            answer = wire.getresponse()
            said = answer.read()
            whole = (
                said.count(b"data: ") >= EVENTS - 1 and b"[DONE]" in said if stream else b"was sent" in said
            )
            if answer.status != 200 or not whole:
                kind = "stream" if stream else "completion"
                raise Failed(
                    f"{self.name} answered a {kind} with {answer.status}: {said[:500]!r}; see {self.log}"
                )


class Bench:
    """The stub, the client, and the contenders that run."""

    def __init__(self, folder: Path, running: contextlib.ExitStack) -> None:
        self._folder = folder
        self._running = running
        self.client = self._build("load", "-lm")
        stub = self._spawn("stub", [str(self._build("stub"))], clean_environment(), stdout=subprocess.PIPE)
        port = int(stub.stdout.readline().split()[1])
        self.upstream = f"http://127.0.0.1:{port}/v1"
        self.servers = [Server(DIRECT, port, stub, {}, LOGS / "stub.log")]
        self.notes: list[str] = []

    def start(self, contender: Contender) -> None:
        """Starts, checks and warms a contender; a peer that fails is left out, with a note."""
        try:
            if not contender.installed:
                raise Failed("it is not installed; see scripts/setup-gateway-peers")
            self._start(contender)
        except Failed as problem:
            if contender.name in (OURS, YARDSTICK):
                raise
            self.notes.append(f"Without {contender.name}: {problem}")
            console.print(self.notes[-1])

    def _start(self, contender: Contender) -> None:
        port, folder = _free_port(), self._folder / contender.name.replace(" ", "-")
        folder.mkdir()
        started = contender.prepare(port, self.upstream, folder)
        process = self._spawn(
            contender.name, started.command, clean_environment() | started.environment, cwd=folder
        )
        server = Server(contender.name, port, process, started.headers, LOGS / f"{contender.name}.log")
        _wait(server, contender.ready)
        server.check()
        for stream in (False, True):
            self.load(server, Shape("warm-up", 16, stream=stream), 1.0)
        self.servers.append(server)
        console.print(f"{server.name} runs, {process.memory_info().rss / 1e6:.0f} MB")

    def load(self, server: Server, shape: Shape, seconds: float) -> Sample:
        """One stage of load.

        Raises:
            Failed: ours or the pass-through answered something else than 200.
        """
        command = [str(self.client), "--port", str(server.port), "--connections", str(shape.connections)]
        command += ["--seconds", str(seconds), "--rate", str(shape.rate)]
        before = server.cpu_s_when_idle()
        done = subprocess.run(command, input=server.request(shape.stream), capture_output=True)
        cpu_us = (server.cpu_s_when_idle() - before) * 1e6
        if done.returncode:
            raise Failed(f"{server.name}: {done.stderr.decode()[-500:]}; see {server.log}")
        told = json.loads(done.stdout)
        failed = told["errors"] + told["unanswered"]
        if failed and server.name in (OURS, YARDSTICK):
            raise Failed(
                f"{server.name}, {shape.title}: {failed} failed: {done.stderr.decode()}; see {server.log}"
            )
        return Sample(
            requests=told["requests"],
            per_s=told["per_s"],
            cpu_us=cpu_us / max(told["requests"], 1),
            event_cpu_us=cpu_us / max(told["requests"] * EVENTS, 1),
            p50_ms=told["p50_us"] / 1000,
            p99_ms=told["p99_us"] / 1000,
            failed=failed,
        )

    def set_stub(self, shape: Shape) -> None:
        """How the stub answers from now on."""
        wire = http.client.HTTPConnection("127.0.0.1", self.servers[0].port, timeout=5)
        wire.request("GET", f"/set?delay_ms={shape.delay_ms}&chunk_delay_us={shape.chunk_delay_us}")
        wire.getresponse().read()

    def _build(self, name: str, *libraries: str) -> Path:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not compiler:
            raise Failed("there is no C compiler (cc, gcc or clang), which the stub and the client need")
        built = self._folder / name
        source = STUB / f"{name}.c"
        subprocess.run([compiler, "-O2", "-o", str(built), str(source), *libraries], check=True)
        return built

    def _spawn(self, name: str, command: list[str], environment: dict[str, str], **more: Any) -> psutil.Popen:
        with (LOGS / f"{name}.log").open("wb") as log:
            streams = {"stdout": log, "stderr": log} | more
            process = psutil.Popen(command, env=environment, start_new_session=True, **streams)
        self._running.callback(_end, process)
        return process


Rounds = list[dict[str, Sample]]


def measured(bench: Bench, shape: Shape, rounds: int, seconds: float) -> Rounds:
    """All contenders in turn, round by round, each round in another order."""
    found: Rounds = []
    bench.set_stub(shape)
    for number in range(rounds):
        shift = number % len(bench.servers)
        order = bench.servers[shift:] + bench.servers[:shift]
        found.append({server.name: bench.load(server, shape, seconds) for server in order})
        console.print(f"{shape.title}, round {number + 1} of {rounds}", highlight=False)
    return found


def table(shape: Shape, rounds: Rounds, figures: list[Figure]) -> str:
    """Markdown, medians over the rounds."""
    lines = [f"{shape.title}:", "", "| | " + " | ".join(figure.title for figure in figures) + " |"]
    lines.append("| --- |" + " --- |" * len(figures))
    names = [DIRECT, *(c.name for c in CONTENDERS if c.name in rounds[0])]
    for name in names:
        shown = []
        for figure in figures:
            values = [figure.value(one[name], one[DIRECT], one[YARDSTICK]) for one in rounds]
            shown.append(format(statistics.median(values), figure.form))
        if failed := sum(one[name].failed for one in rounds):
            shown[-1] += f" ({failed} failed)"
        lines.append(f"| {f'**{name}**' if name == OURS else name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def headroom(shape: Shape, rounds: Rounds) -> str:
    """That the stub and the client are not what was measured."""
    rates = {name: statistics.median(one[name].per_s for one in rounds) for name in rounds[0]}
    stub = rates.pop(DIRECT)
    name, fastest = max(rates.items(), key=lambda item: item[1])
    verdict = "not the bottleneck" if stub > 3 * fastest else "TOO NEAR: read nothing into these figures"
    told = f"{stub:,.0f} requests/s, {stub / fastest:.1f} times the fastest gateway's ({name})"
    return f"The stub alone, {shape.title}: {told}: {verdict}."


def main(
    modes: Annotated[list[str] | None, typer.Argument(help=" ".join(MODES))] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each contender's turn.")] = 2.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this contender and the pass-through; may stand twice.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where every round's figures go.")] = None,
) -> None:
    """Runs the modes and prints Markdown."""
    if unknown := set(modes or []) - set(MODES):
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(MODES)}")
    chosen = [c for c in CONTENDERS if not only or c.name == YARDSTICK or c.name in only]
    raw: dict[str, Any] = {}
    try:
        with running(chosen) as bench:
            for mode in modes or MODES:
                shapes, figures = MODES[mode]
                for shape in shapes:
                    found = measured(bench, shape, rounds, seconds)
                    raw[f"{mode}: {shape.title}"] = [
                        {name: asdict(sample) for name, sample in one.items()} for one in found
                    ]
                    parts = [table(shape, found, figures)]
                    if mode == "cpu" and shape.connections > 1:
                        parts.append(headroom(shape, found))
                    print("\n\n".join(parts), end="\n\n", flush=True)  # noqa: T201
            for note in bench.notes:
                print(note)  # noqa: T201
    except Failed as problem:
        console.print(f"bench-gateway failed: {problem}", markup=False, style="red")
        raise typer.Exit(1) from problem
    finally:
        if out:
            out.write_text(json.dumps(raw, indent=2) + "\n")


@contextlib.contextmanager
def running(chosen: list[Contender]) -> Iterator[Bench]:
    """The stub and the contenders, until the end."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bench = Bench(Path(folder), stack)
        for contender in chosen:
            bench.start(contender)
        yield bench


def _added(own: Sample, direct: Sample) -> float:
    return max(own.p50_ms - direct.p50_ms, 0.001)


def _wait(server: Server, path: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            wire = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
            wire.request("GET", path)
            if wire.getresponse().status < 500:
                return
        time.sleep(0.1)
    raise Failed(f"{server.name} did not start: {server.log.read_text(errors='replace')[-2000:]}")


def _end(process: psutil.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except psutil.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    # Ended by SIGTERM, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    typer.run(main)
