"""`make bench-precompute`: whole runs on a real PostgreSQL and a real Valkey, each beside what it is held to.

`ledger`: a template, so no model, at two sizes, beside one ARQ job a row. `edge`: the edge model, beside the
bare batched loop over the same texts. `interactive`: the edge model's P99 without and during a run.
`serving`: stored results through the gateway.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.edge import KEY, RunningEdge, end_on_sigterm, free_port  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402
from trivium.datasets import read_records  # noqa: E402
from trivium.features import find_feature  # noqa: E402
from trivium.precompute.starting import new_run, precomputed_variant  # noqa: E402
from trivium.store.engine import Database, migrate  # noqa: E402
from trivium.store.keys import KeyRepository  # noqa: E402
from trivium.store.runs import RunProgress, RunRepository  # noqa: E402

app = typer.Typer(no_args_is_help=True, help=__doc__)
console = Console(width=120)
VARIANTS = """
variants:
  by-template:
    pattern: precomputed
    archive: rows
    chunk_rows: 2000
    compute: {template: {label: {$input: label}}}
  by-edge:
    pattern: precomputed
    archive: texts
    compute: {variants: [edge-v1]}
"""
Texts = Annotated[Path, typer.Option(help="CSV or JSONL with a field `text`.")]
ARCHIVE = ROOT / "features/similar-tickets/archive.jsonl"


@dataclass
class Bench:
    """Servers and a worker of its own."""

    folder: Path
    database_url: str
    redis_url: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = Database(self.database_url)
        self.features = self.folder / "features"
        shutil.copytree(ROOT / "features", self.features)
        manifest = self.features / "ticket-triage/feature.yaml"
        manifest.write_text(manifest.read_text().replace("\nvariants:\n", VARIANTS, 1))
        self.environment = {
            **os.environ,
            "TRIVIUM_STATE_DIR": str(self.folder / "state"),
            "TRIVIUM_FEATURES_DIR": str(self.features),
            "TRIVIUM_DATABASE_URL": self.database_url,
            "TRIVIUM_REDIS_URL": self.redis_url,
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_FLAGS_FILE": str(self.features / "flags.json"),
            "TRIVIUM_LOG_LEVEL": "warning",
        }

    @contextmanager
    def service(self, name: str, **settings: str) -> Iterator[tuple[psutil.Process, int]]:
        """A gateway or a worker in a process of its own, and its port."""
        port, kind = free_port(), {"worker": "batch_worker", "gateway": "gateway"}[name]
        env = {**self.environment, **settings, f"TRIVIUM_{name.upper()}_PORT": str(port)}
        log_path = self.folder / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", kind], env=env, stdout=log, stderr=log)
        try:
            time.sleep(4)
            assert process.poll() is None, log_path.read_text()[-2000:]
            yield psutil.Process(process.pid), port
        finally:
            process.terminate()
            process.wait(30)

    async def begin(self, variant: str, source: Path, force: bool = False) -> str:
        """Starts a run over a file."""
        feature = find_feature(self.features, "ticket-triage")
        chosen, _ = precomputed_variant(feature, variant)
        new = new_run(feature, chosen, {"kind": "url", "url": str(source)}, force=force)
        return (await RunRepository(self.database).start(new))[0]

    async def complete(self, variant: str, source: Path, force: bool = False) -> "Done":
        """A whole run."""
        run_id = await self.begin(variant, source, force)
        runs, phases = RunRepository(self.database), dict[str, float]()
        with console.status("") as status:
            while not (now := await runs.progress(run_id)).ended:
                phases.setdefault(now.phase, time.time())
                told = f"{now.phase} {now.steps_done:,} of {now.steps:,}, {now.rate or 0:,.0f}/s"
                status.update(f"{variant} {told}")
                await asyncio.sleep(0.05)
        assert now.state == "done", now
        assert now.started_at is not None
        assert now.finished_at is not None
        computing = now.finished_at - phases.get("compute", now.started_at)
        return Done(now, now.finished_at - now.started_at, computing)


@dataclass(frozen=True)
class Done:
    """A run that has ended, and the seconds that all of it and its last phase took."""

    run: RunProgress
    whole_s: float
    computing_s: float

    @property
    def rate(self) -> float:
        """Entities a second of the phase that computes."""
        return (self.run.computed + self.run.abstained) / self.computing_s

    @property
    def whole_rate(self) -> float:
        """Entities a second from the start to the end, import included."""
        return (self.run.total) / self.whole_s


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Everything, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="trivium-bench-"))
    (folder / "valkey").mkdir()
    try:
        with Postgres() as postgres, Valkey(folder / "valkey") as valkey:
            made = Bench(folder, postgres.new_database(), valkey.url)
            await migrate(made.database)
            yield made
            await made.database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@app.command()
def ledger(
    rows: Annotated[list[int], typer.Option(help="Rows of each run.")] = [10_000, 200_000],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Jobs of the baseline.")] = 3_000,
) -> None:
    """Runs of a template, each beside one ARQ job a row."""
    asyncio.run(_ledger(rows, jobs))


async def _ledger(sizes: list[int], jobs: int) -> None:
    columns = ("rows", "one job a row", "compute", "ratio", "with the import", "again, unchanged")
    table = Table(*columns, "worker RSS MB", title="rows a second")
    async with bench() as own:
        for size in sizes:
            source = own.folder / f"{size}.jsonl"
            _write_rows(source, size)
            baseline = _peer("arq_rows.py", own.redis_url, str(jobs))
            with own.service("worker") as (process, _):
                before = _rss_mb(process)
                done = await own.complete("by-template", source, force=True)
                peak = _rss_mb(process)
                again = await own.complete("by-template", source)
            assert (done.run.computed, again.run.unchanged) == (size, size)
            unchanged = again.run.unchanged / again.computing_s
            figures = (f"{baseline:,.0f}", f"{done.rate:,.0f}", f"{done.rate / baseline:.1f}")
            more = (f"{done.whole_rate:,.0f}", f"{unchanged:,.0f}", f"{before:.0f} to {peak:.0f}")
            table.add_row(f"{size:,}", *figures, *more)
            console.print(table)
            console.print(await _bytes(own.database, size))


async def _bytes(database: Database, rows: int) -> str:
    """What a row takes on disk, indexes included."""
    told = []
    async with database.transaction() as connection:
        for table in ("archive_item", "precomputed_result", "precompute_chunk"):
            size = select(func.pg_total_relation_size(table))
            told.append(f"{table} {(await connection.execute(size)).scalar_one() / rows:.0f}")
    return f"bytes a row, indexes included: {', '.join(told)}"


@app.command()
def edge(
    data: Texts = ARCHIVE,
    texts: Annotated[int, typer.Option(help="How many; from the top again where there are fewer.")] = 10_000,
    rounds: Annotated[int, typer.Option()] = 3,
) -> None:
    """Runs of the edge model, each beside the bare batched loop."""
    asyncio.run(_edge(_texts(data, texts), rounds))


async def _edge(texts: list[str], rounds: int) -> None:
    table = Table("round", "bare loop, texts/s", "run, texts/s", "ratio", title=f"{len(texts):,} texts")
    ratios = []
    async with bench() as own:
        source = own.folder / "texts.jsonl"
        _write_texts(source, texts)
        service = RunningEdge(ROOT / "models", own.folder / "edge.log", log_level="warning")
        own.environment["TRIVIUM_EDGE_URL"] = f"http://127.0.0.1:{service.port}"
        for number in range(1, rounds + 1):
            bare = _peer("bare_batches.py", str(ROOT / "models"), str(source))
            service.start()
            try:
                with own.service("worker"):
                    done = await own.complete("by-edge", source, force=True)
            finally:
                service.stop()
            ratios.append(done.rate / bare)
            table.add_row(str(number), f"{bare:,.0f}", f"{done.rate:,.0f}", f"{ratios[-1]:.2f}")
    table.add_row("median", "", "", f"{statistics.median(ratios):.2f}")
    console.print(table)


@app.command()
def interactive(
    data: Texts = ARCHIVE,
    rate: Annotated[float, typer.Option(help="Requests a second of users.")] = 50.0,
    seconds: Annotated[float, typer.Option(help="Of each stage.")] = 15.0,
    rounds: Annotated[int, typer.Option()] = 3,
) -> None:
    """The P99 of single requests to the edge model, without and during a run, in turn."""
    asyncio.run(_interactive(_texts(data, 200_000), rate, seconds, rounds))


async def _interactive(texts: list[str], rate: float, seconds: float, rounds: int) -> None:
    columns = ("round", "P50 alone", "P50 during", "P99 alone", "P99 during", "ratio of P99", "run, texts/s")
    table = Table(*columns, title=f"{rate:g} requests a second, milliseconds")
    ratios = []
    async with bench() as own:
        source = own.folder / "texts.jsonl"
        _write_texts(source, texts)
        service = RunningEdge(ROOT / "models", own.folder / "edge.log", log_level="warning")
        own.environment["TRIVIUM_EDGE_URL"] = f"http://127.0.0.1:{service.port}"
        target = ["--url", f"http://127.0.0.1:{service.port}", "--model", "ticket-triage", "--key", KEY]
        service.start()
        try:
            with own.service("worker"):
                for number in range(1, rounds + 1):
                    alone = await _load(own, target, rate, seconds)
                    run_id = await own.begin("by-edge", source, force=True)
                    runs = RunRepository(own.database)
                    while not (before := (await runs.progress(run_id)).computed):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                    began = time.monotonic()
                    during = await _load(own, target, rate, seconds)
                    made = (await runs.progress(run_id)).computed - before
                    speed = made / (time.monotonic() - began)
                    await runs.cancel(run_id)
                    await asyncio.sleep(1)
                    ratios.append(during["p99"] / alone["p99"])
                    pairs = [f"{stage[name]:.1f}" for name in ("p50", "p99") for stage in (alone, during)]
                    table.add_row(str(number), *pairs, f"{ratios[-1]:.2f}", f"{speed:,.0f}")
        finally:
            service.stop()
    table.add_row("median", "", "", "", "", f"{statistics.median(ratios):.2f}", "")
    console.print(table)


@app.command()
def serving(
    entities: Annotated[int, typer.Option()] = 100_000,
    rate: Annotated[list[float], typer.Option(help="Requests a second.")] = [100.0, 250.0, 500.0],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="Of each stage.")] = 15.0,
) -> None:
    """Stored results through the gateway, on PostgreSQL."""
    asyncio.run(_serving(entities, rate, seconds))


async def _serving(entities: int, rates: list[float], seconds: float) -> None:
    columns = ("requests/s", "answered/s", "P50 ms", "P99 ms", "not answered in time")
    table = Table(*columns, title=f"stored results of {entities:,} entities")
    async with bench() as own:
        manifest = own.features / "ticket-triage/feature.yaml"
        served = manifest.read_text().replace("serve: edge-v1", "serve: by-template")
        manifest.write_text(served.replace("example:\n", "example:\n  entity_key: N-000000000\n"))
        source = own.folder / "rows.jsonl"
        _write_rows(source, entities)
        with own.service("worker"):
            await own.complete("by-template", source)
        _, secret = await KeyRepository(own.database).create("bench", ["infer"])
        keys, body = own.folder / "keys.jsonl", own.folder / "body.json"
        keys.write_text("".join(json.dumps({"text": f"N-{n:09d}"}) + "\n" for n in range(0, entities, 7)))
        body.write_text('{"input": {"text": "x"}, "entity_key": "{text}", "subject": {"id": "s"}}')
        with own.service("gateway") as (_, port):
            url = f"http://127.0.0.1:{port}/v1/features/ticket-triage/infer"
            target = ["--url", url, "--key", secret, "--data", str(keys), "--body", str(body)]
            _check_served(url, secret)
            for one in rates:
                found = await _load(own, target, one, seconds)
                shown = (f"{one:g}", f"{found['goodput']:.0f}", f"{found['p50']:.2f}", f"{found['p99']:.2f}")
                table.add_row(*shown, f"{found['missed']:.0f}")
                console.print(table)


async def _load(own: Bench, target: list[str], rate: float, seconds: float) -> dict[str, float]:
    """One stage of the open-loop load test."""
    out = own.folder / "load"
    shutil.rmtree(out, ignore_errors=True)
    words = ["load", *target, "--rate", str(rate), "--seconds", str(seconds), "--out", str(out)]
    command = [sys.executable, "-m", "trivium.cli.main", *words, "--p99-ms", "2000"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    found = sorted(out.glob("**/*.json"))
    assert found, said.decode()[-3000:]
    stage = json.loads(found[0].read_text())["stages"][-1]
    return _figures(stage)


def _check_served(url: str, secret: str) -> None:
    """What is timed below is a stored result, and nothing else."""
    body = {"input": {"text": "x"}, "entity_key": "N-000000007", "subject": {"id": "s"}}
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        answer = json.loads(response.read())
    assert answer["served_by"]["pattern"] == "precomputed", answer


def _figures(stage: dict[str, Any]) -> dict[str, float]:
    latency = stage["latency"]
    return {
        "p50": latency["p50_ms"],
        "p99": latency["p99_ms"],
        "goodput": stage["goodput_per_s"],
        "missed": stage["sent"] * (1 - stage["goodput_share"]),
    }


def _peer(name: str, *arguments: str) -> float:
    """The figure that a script of scripts/peers prints."""
    command = [sys.executable, str(ROOT / "scripts/peers" / name), *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _texts(data: Path, count: int) -> list[str]:
    known = [str(record["text"]) for record in read_records(data, ("text",))]
    return [known[n % len(known)] for n in range(count)]


def _write_texts(path: Path, texts: list[str]) -> None:
    with path.open("w") as stream:
        for n, text in enumerate(texts):
            stream.write(json.dumps({"id": f"T-{n:07d}", "text": text}) + "\n")


def _write_rows(path: Path, rows: int) -> None:
    """Records of about a hundred bytes."""
    with path.open("w") as stream:
        for n in range(rows):
            text = f"Where is my card number {n}?"
            stream.write(f'{{"id": "N-{n:09d}", "label": "card_arrival", "text": "{text}"}}\n')


def _rss_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 1e6)


if __name__ == "__main__":
    end_on_sigterm()
    app()
