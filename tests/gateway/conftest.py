"""Gateways in this process on a real database; the worker's part is played by the test."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from trivium.domain.precompute import Batch, Result
from trivium.features import load_catalogue
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.engine import Database
from trivium.store.keys import KeyRepository
from trivium.store.results import Refresh, ResultRepository
from trivium.store.runs import RunRepository
from trivium.store.tables import inference, precomputed_result, refresh_request

ARCHIVE = "inbox"
MANIFEST = """
feature: {name}
owner: tests
assessment: {{problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}}
success_metric: {{name: m, direction: down}}
input: {{type: object, properties: {{text: {{type: string}}}}}}
output: {output}
deadline_ms: 5000
variants:
  edge-v1: {{pattern: edge, model: ticket-triage}}
  stored-v0: {{pattern: precomputed, archive: inbox, compute: {{variants: [edge-v1]}}, max_age_s: 60}}
  stored-v1:
    pattern: precomputed
    archive: inbox
    compute: {{variants: [edge-v1]}}
    max_age_s: 60
    hard_max_age_s: 3600
serve: {serve}
fallback: {fallback}
rollout: {{flag: stored}}
evaluation: {{dataset: golden.jsonl}}
budget: {{monthly_usd: 1}}
example: {{entity_key: M-1, input: {{text: hello}}}}
"""
OUTPUT = "{type: object, required: [label], properties: {label: {type: string}}}"
STATIC = "{static: {label: nothing}}"
FLAGS = {
    "version": 1,
    "features": [
        {
            "name": "stored",
            "enabled": True,
            "strategies": [{"name": "userWithId", "parameters": {"userIds": "u-1,u-2"}}],
        }
    ],
}


def write_feature(
    folder: Path, name: str, *, serve: str = "stored-v1", fallback: str = f"[{STATIC}]", output: str = OUTPUT
) -> None:
    """A feature that serves stored results and has no other step than the non-AI version."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = MANIFEST.format(name=name, serve=serve, fallback=fallback, output=output)
    (folder / name / "feature.yaml").write_text(text)
    (folder / name / "golden.jsonl").write_text("{}\n")


@dataclass
class Gateway:
    """A gateway that runs, and a client with a key for it."""

    app: FastAPI
    client: httpx.AsyncClient

    @property
    def state(self) -> GatewayState:
        """What it holds."""
        state: GatewayState = self.app.state.gateway
        return state

    async def infer(self, key: str | None, text: str | None = None, **more: Any) -> httpx.Response:
        """Asks the feature `intents`, or another."""
        feature = more.pop("feature", "intents")
        given = {} if text is None else {"text": text}
        body = {"entity_key": key, "input": given, "subject": {"id": "u-1"}, **more}
        return await self.client.post(f"/v1/features/{feature}/infer", json=body)

    async def read(self, inference_id: str) -> httpx.Response:
        """Reads an answer back."""
        return await self.client.get(f"/v1/inferences/{inference_id}")


StartGateway = Callable[..., Awaitable[Gateway]]


@dataclass
class Worker:
    """Does what a worker does, when the test says so: the label is the text in capitals."""

    database: Database
    features: Path

    async def work(self) -> int:
        """Computes what is wished for; returns how many runs that took."""
        catalogue, runs = load_catalogue(self.features), RunRepository(self.database)
        results, chunks = ResultRepository(self.database), ChunkRepository(self.database)
        for name, variant_name in await results.wanted():
            feature = catalogue.get(name)
            variant, _ = precomputed_variant(feature, variant_name)
            new = new_run(feature, variant, {"kind": "refresh"}, trigger="refresh", force=True)
            assert await runs.start_refresh(new, 256)
        rung = await chunks.to_ring(100)
        for chunk_id, _ in rung:
            claim = await chunks.claim(chunk_id, 60)
            assert claim
            brought = await results.records_wished(claim.feature, claim.variant, claim.keys)
            await ArchiveRepository(self.database).put(ARCHIVE, brought)
            found = await chunks.find(claim, ARCHIVE, claim.keys, force=True)
            made = [Result(i, {"label": i.record["text"].upper()}, 0.9, "capitals") for i in found.items]
            assert await chunks.checkpoint(claim, Batch(results=made, gone=found.gone), ends=True)
        return len(rung)

    async def compute(self, *keys: str, variant: str = "stored-v1", feature: str = "intents") -> None:
        """Puts records into the archive and stores their results."""
        archive = ArchiveRepository(self.database)
        await archive.put(ARCHIVE, {key: {"text": f"text of {key}"} for key in keys})
        wishes = [Refresh(feature, variant, key, "missing") for key in keys]
        await ResultRepository(self.database).ask(wishes)
        assert await self.work() == 1

    async def change(self, key: str, **values: Any) -> None:
        """Changes a stored result; `age_s` lets it have been computed so long ago."""
        if "age_s" in values:
            values["computed_at"] = time.time() - values.pop("age_s")
        own = update(precomputed_result).where(precomputed_result.c.entity_key == key)
        async with self.database.transaction() as connection:
            assert (await connection.execute(own.values(**values))).rowcount

    async def wishes(self, count: int = 1) -> dict[str, tuple[str, dict[str, Any] | None]]:
        """(reason, record) of what is wished for, by entity_key, as soon as it is so many."""
        want = refresh_request.c
        if not count:
            await asyncio.sleep(0.3)  # gateways note wishes every 0.1 s
        until = time.monotonic() + 5
        while True:
            async with self.database.transaction() as connection:
                found = await connection.execute(select(want.entity_key, want.reason, want.record))
                rows: list[Any] = list(found)
            if len(rows) >= count or time.monotonic() > until:
                return {row.entity_key: (row.reason, row.record) for row in rows}
            await asyncio.sleep(0.02)

    async def row(self, inference_id: str) -> dict[str, Any] | None:
        """An inference as it is stored."""
        async with self.database.transaction() as connection:
            found = await connection.execute(select(inference).where(inference.c.id == inference_id))
            row = found.mappings().first()
            return dict(row) if row else None


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Features that serve stored results."""
    folder = tmp_path / "features"
    write_feature(folder, "intents")
    write_feature(folder, "with-another-step", fallback=f"[stored-v0, {STATIC}]")
    write_feature(folder, "asked-at-once", serve="edge-v1")
    return folder


@pytest.fixture
def worker(database: Database, features: Path) -> Worker:
    return Worker(database, features)


@pytest.fixture
async def start_gateway(database: Database, features: Path, tmp_path: Path) -> AsyncIterator[StartGateway]:
    """Starts gateways on the same database; all take the same key."""
    flags = tmp_path / "flags.json"
    flags.write_text(json.dumps(FLAGS))
    _, secret = await KeyRepository(database).create("tests", ["infer", "feedback"])
    async with AsyncExitStack() as stack:

        async def start(number: int = 1, features_dir: Path = features) -> Gateway:
            settings = GatewaySettings(
                state_dir=tmp_path / f"state-{number}",
                database_url=database.url.render_as_string(hide_password=False),
                features_dir=features_dir,
                flags_file=flags,
            )
            app = create_app(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://gateway",
                headers={"Authorization": f"Bearer {secret}"},
            )
            return Gateway(app, await stack.enter_async_context(client))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway()
