"""Real batch workers in processes of their own, and runs to give them."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from support.edge import KEY, free_port
from support.platform import ROOT, clean_environment
from trivium.features import Feature, find_feature
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.archive import input_hash
from trivium.store.engine import Database
from trivium.store.runs import RunProgress, RunRepository
from trivium.store.tables import archive_item, dead_item, precompute_chunk, precomputed_result

VARIANTS = """
variants:
  by-edge:
    pattern: precomputed
    archive: messages
    chunk_rows: 64
    compute: {variants: [edge-v1]}
  by-template:
    pattern: precomputed
    archive: messages
    chunk_rows: 64
    compute: {template: {label: {$input: text}}}
"""


def make_features(folder: Path) -> Path:
    """The features, with pre-computed variants of ticket-triage whose texts may be of any length."""
    target = folder / "features"
    shutil.copytree(ROOT / "features", target)
    manifest = target / "ticket-triage/feature.yaml"
    text = manifest.read_text().replace("\nvariants:\n", VARIANTS, 1)
    manifest.write_text(text.replace(", maxLength: 4000", "").replace("min_in_scope: 0.3, ", ""))
    return target


@dataclass
class Workers:
    """Workers on one database and one Redis; each is started, killed and frozen by its number."""

    folder: Path
    features: Path
    database_url: str
    redis_url: str
    edge_url: str = "http://127.0.0.1:9"
    settings: dict[str, str] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = Database(self.database_url)
        self.runs = RunRepository(self.database)
        self.ports: dict[int, int] = {}

    def start(self, number: int) -> None:
        """Starts one; it takes a second or two until it works."""
        self.ports[number] = free_port()
        environment = {
            **clean_environment(),
            "TRIVIUM_STATE_DIR": str(self.folder / f"state-{number}"),
            "TRIVIUM_FEATURES_DIR": str(self.features),
            "TRIVIUM_DATABASE_URL": self.database_url,
            "TRIVIUM_REDIS_URL": self.redis_url,
            "TRIVIUM_EDGE_URL": self.edge_url,
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_WORKER_PORT": str(self.ports[number]),
            "TRIVIUM_WORKER_LEASE_S": "2",
            "TRIVIUM_LOG_LEVEL": "warning",
            **self.settings,
        }
        with (self.folder / f"worker-{number}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "batch_worker"], env=environment, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        """Ends one with -9."""
        self.processes[number].kill()
        self.processes[number].wait()

    def send(self, number: int, what: signal.Signals) -> None:
        """Sends a signal."""
        self.processes[number].send_signal(what)

    def log(self, number: int) -> str:
        """What one wrote."""
        return (self.folder / f"worker-{number}.log").read_text()

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Workers 1 to `count`, until the end of the block."""
        try:
            for number in range(1, count + 1):
                self.start(number)
            yield
        finally:
            for process in self.processes.values():
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in self.processes.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    def feature(self) -> Feature:
        """Whose runs these are."""
        return find_feature(self.features, "ticket-triage")

    async def begin(self, variant: str, records: dict[str, dict[str, Any]], **options: Any) -> str:
        """Starts a run over records; returns its id."""
        source = self.folder / f"{variant}-{os.urandom(3).hex()}.jsonl"
        lines = [json.dumps({"id": key, **record}) for key, record in records.items()]
        source.write_text("\n".join(lines) + "\n")
        feature = self.feature()
        chosen, _ = precomputed_variant(feature, variant)
        run_id, _ = await self.runs.start(
            new_run(feature, chosen, {"kind": "url", "url": str(source)}, **options)
        )
        return run_id

    async def until(self, run_id: str, holds: Any, seconds: float = 120) -> RunProgress:
        """Waits until something holds of a run's progress."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = await self.runs.progress(run_id)
            if holds(now):
                return now
            await asyncio.sleep(0.05)
        raise AssertionError(f"{now}\n{self.log(1)[-3000:]}")

    async def holds_a_chunk(self, number: int, seconds: float = 20) -> None:
        """Waits until one worker works on a chunk, or nothing is left to work on."""
        chunk = precompute_chunk.c
        mine = chunk.worker.like(f"%:{self.processes[number].pid}") & (chunk.state == "leased")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            async with self.database.transaction() as connection:
                if (await connection.execute(select(chunk.id).where(mine).limit(1))).first():
                    return
                left = select(chunk.id).where(chunk.state.in_(["pending", "leased"])).limit(1)
                if not (await connection.execute(left)).first():
                    return
            await asyncio.sleep(0.01)

    async def ended(self, run_id: str, seconds: float = 120) -> RunProgress:
        """Waits until a run has ended."""
        return await self.until(run_id, lambda now: now.ended, seconds)

    async def account(self, variant: str, records: dict[str, dict[str, Any]], run: RunProgress) -> None:
        """Every entity is there exactly once, whole, of its own input; and was counted once."""
        result, item, dead = precomputed_result.c, archive_item.c, dead_item.c
        joined = precomputed_result.join(
            archive_item, (item.archive == "messages") & (item.entity_key == result.entity_key)
        )
        statement = select(result.entity_key, result.output, result.input_hash, item.input_hash.label("now"))
        async with self.database.transaction() as connection:
            found = await connection.execute(statement.select_from(joined).where(result.variant == variant))
            rows: list[Any] = list(found)
            lost = await connection.execute(select(dead.entity_key).where(dead.run_id == run.run_id))
            dead_keys: set[str] = set(lost.scalars())
        assert {row.entity_key for row in rows} | dead_keys == set(records), "an entity is missing"
        assert len(rows) + len(dead_keys) == len(records), "an entity is there twice"
        for row in rows:
            assert row.input_hash == row.now == input_hash({"text": records[row.entity_key]["text"]})
            assert isinstance(row.output["label"], str) and row.output["label"]
        assert run.computed == len(rows), "an entity was counted twice, or not at all"
        assert run.failed + run.abstained == len(dead_keys)
        assert run.total == len(records)
