"""`make bench-precompute`: rows a second of whole runs, on a real PostgreSQL and a real Valkey.

In one session, in turn: one ARQ job a row (the way that it is often done), a run of a template (no model:
what the ledger itself costs), and, with --edge, a run of the edge model beside the bare batched loop over
the same texts. Each figure is also given as a ratio to what it is measured against.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.edge import KEY, RunningEdge  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402
from trivium.datasets import read_records  # noqa: E402
from trivium.features import find_feature  # noqa: E402
from trivium.precompute.starting import new_run, precomputed_variant  # noqa: E402
from trivium.store.engine import Database, migrate  # noqa: E402
from trivium.store.runs import RunProgress, RunRepository  # noqa: E402

console = Console(width=120)
VARIANTS = """
  bench-noop:
    {pattern: precomputed, archive: noop, chunk_rows: CHUNK, key_field: id,
     compute: {template: {label: {$input: label}}}}
  bench-edge:
    {pattern: precomputed, archive: texts, chunk_rows: 1024, compute: {variants: [edge-v1]}}
serve: edge-v1
"""
JOBS_BASELINE = 3_000


def main(
    rows: Annotated[int, typer.Option(help="Rows of the run of a template.")] = 100_000,
    chunk: Annotated[int, typer.Option(help="Rows of its chunks.")] = 2_000,
    slots: Annotated[int, typer.Option(help="Chunks that the worker has in hand at once.")] = 2,
    rounds: Annotated[int, typer.Option()] = 1,
    edge: Annotated[bool, typer.Option(help="Also the edge model, beside the bare loop.")] = False,
    data: Annotated[Path, typer.Option(help="CSV or JSONL of texts, for --edge.")] = ROOT
    / "features/similar-tickets/archive.jsonl",
    texts: Annotated[int, typer.Option(help="How many texts, for --edge.")] = 10_000,
) -> None:
    """Runs everything and prints the table."""
    folder = Path(tempfile.mkdtemp(prefix="trivium-bench-"))
    try:
        with Postgres() as postgres, Valkey(folder) as valkey:
            features = _features(folder, chunk)
            bench = Bench(folder, features, postgres.new_database(), valkey.url, slots)
            asyncio.run(bench.run(rows, rounds, read_texts(data, texts) if edge else []))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_texts(data: Path, count: int) -> list[str]:
    """As many texts as asked for, from the top again where there are fewer."""
    known = [str(record["text"]) for record in read_records(data, ("text",))]
    return [known[n % len(known)] for n in range(count)]


class Bench:
    """A worker of its own on servers of its own."""

    def __init__(self, folder: Path, features: Path, database: str, redis: str, slots: int) -> None:
        self.folder = folder
        self.features = features
        self.database = Database(database)
        self.redis = redis
        self.environment = {
            **os.environ,
            "TRIVIUM_STATE_DIR": str(folder / "state"),
            "TRIVIUM_FEATURES_DIR": str(features),
            "TRIVIUM_MODELS_DIR": str(ROOT / "models"),
            "TRIVIUM_DATABASE_URL": database,
            "TRIVIUM_REDIS_URL": redis,
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_WORKER_PORT": "18594",
            "TRIVIUM_WORKER_SLOTS": str(slots),
            "TRIVIUM_LOG_LEVEL": "warning",
        }

    async def run(self, rows: int, rounds: int, texts: list[str]) -> None:
        """All of it."""
        await migrate(self.database)
        table = Table(
            "what", "rows", "rows/s", "against", "worker RSS MB, start, end", title="pre-computation"
        )
        source = self.folder / "noop.jsonl"
        write_rows(source, rows)
        for _ in range(rounds):
            jobs = await asyncio.to_thread(self.one_job_a_row)
            table.add_row("one ARQ job a row, each a no-op", f"{JOBS_BASELINE}", f"{jobs:,.0f}", "1", "")
            with self.worker() as process:
                before = rss_mb(process)
                done = await self.complete("bench-noop", {"kind": "url", "url": str(source)}, force=True)
                after = rss_mb(process)
                speed, whole = speeds(done, self.phases)
                table.add_row(
                    "template, import and compute",
                    f"{rows:,}",
                    f"{whole:,.0f}",
                    f"{whole / jobs:.1f} × the jobs",
                    f"{before:.0f}, {after:.0f}",
                )
                table.add_row(
                    "template, compute alone",
                    f"{rows:,}",
                    f"{speed:,.0f}",
                    f"{speed / jobs:.1f} × the jobs",
                    "",
                )
                again = await self.complete("bench-noop", {"kind": "archive"})
                speed, _ = speeds(again, self.phases)
                table.add_row(
                    "the same again: nothing changed",
                    f"{rows:,}",
                    f"{again.unchanged / (again.finished_at - again.started_at):,.0f}",
                    "",
                    f"{rss_mb(process):.0f}",
                )
            assert done.computed == rows, done
            assert again.unchanged == rows, again
        if texts:
            await self.edge_rounds(table, texts, rounds)
        console.print(table)
        await self.database.close()

    async def edge_rounds(self, table: Table, texts: list[str], rounds: int) -> None:
        """A run through the edge model and the bare loop in turn."""
        source = self.folder / "texts.jsonl"
        with source.open("w") as stream:
            for n, text in enumerate(texts):
                stream.write(json.dumps({"id": f"T-{n:07d}", "text": text}) + "\n")
        service = RunningEdge(ROOT / "models", self.folder / "edge.log", log_level="warning")
        self.environment["TRIVIUM_EDGE_URL"] = f"http://127.0.0.1:{service.port}"
        ratios = []
        for _ in range(rounds):
            bare = await asyncio.to_thread(self.bare_loop, source)
            service.start()
            with self.worker() as process:
                before = rss_mb(process)
                done = await self.complete("bench-edge", {"kind": "url", "url": str(source)}, force=True)
                after = rss_mb(process)
            service.stop()
            speed, _ = speeds(done, self.phases)
            ratios.append(speed / bare)
            table.add_row(
                "bare batched session.run, tokeniser included", f"{len(texts):,}", f"{bare:,.0f}", "1", ""
            )
            table.add_row(
                "edge run, compute",
                f"{len(texts):,}",
                f"{speed:,.0f}",
                f"{speed / bare:.2f} × bare",
                f"{before:.0f}, {after:.0f}",
            )
        if len(ratios) > 1:
            table.add_row("edge run / bare, median", "", "", f"{statistics.median(ratios):.2f}", "")

    async def complete(self, variant: str, source: dict[str, Any], force: bool = False) -> RunProgress:
        """Starts a run and waits for its end; notes when each phase began."""
        feature = find_feature(self.features, "ticket-triage")
        chosen, _ = precomputed_variant(feature, variant)
        runs = RunRepository(self.database)
        run_id, _ = await runs.start(new_run(feature, chosen, source, force=force))
        self.phases: dict[str, float] = {}
        with console.status("") as status:
            while True:
                now = await runs.progress(run_id)
                self.phases.setdefault(now.phase, time.time())
                status.update(
                    f"{variant} {now.phase} {now.steps_done:,} of {now.steps:,}, {now.rate or 0:,.0f}/s"
                )
                if now.ended:
                    assert now.state == "done", now
                    return now
                await asyncio.sleep(0.1)

    def one_job_a_row(self) -> float:
        """Jobs a second of ARQ, tuned: no results kept, a short poll, as many slots as it takes."""
        code = (ROOT / "scripts/peers/arq_rows.py").read_text()
        done = subprocess.run(
            [sys.executable, "-c", code, self.redis, str(JOBS_BASELINE)],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    def bare_loop(self, source: Path) -> float:
        """Rows a second of the model in sorted batches, a thread a CPU, with nothing around it."""
        code = (ROOT / "scripts/peers/bare_batches.py").read_text()
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / "models"), str(source)],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    @contextmanager
    def worker(self) -> Iterator[psutil.Process]:
        """A worker in a process of its own."""
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "batch_worker"], env=self.environment, stdout=log, stderr=log
            )
        try:
            time.sleep(3)
            assert process.poll() is None, (self.folder / "worker.log").read_text()
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def speeds(done: RunProgress, phases: dict[str, float]) -> tuple[float, float]:
    """Rows a second of the phase that computes, and of the whole run."""
    assert done.finished_at
    assert done.started_at
    return (
        done.computed / max(done.finished_at - phases.get("compute", done.started_at), 1e-3),
        done.computed / (done.finished_at - done.started_at),
    )


def write_rows(path: Path, rows: int) -> None:
    """Records of a hundred bytes or so."""
    with path.open("w") as stream:
        for n in range(rows):
            stream.write(
                f'{{"id": "N-{n:09d}", "label": "card_arrival", "text": "Where is my card number {n}?"}}\n'
            )


def rss_mb(process: psutil.Process) -> float:
    """Resident memory."""
    return process.memory_info().rss / 1e6


def _features(folder: Path, chunk: int) -> Path:
    target = folder / "features"
    shutil.copytree(ROOT / "features", target)
    manifest = target / "ticket-triage/feature.yaml"
    text = manifest.read_text().replace("\nserve: edge-v1\n", VARIANTS.replace("CHUNK", str(chunk)), 1)
    manifest.write_text(text)
    return target


if __name__ == "__main__":
    typer.run(main)
