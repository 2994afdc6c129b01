"""Runs through the vendors' batch APIs, on a server that speaks their documented wire."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from batch_worker.jobs.batch_api import custom_id
from batch_worker.jobs.chunks import ChunkWorker
from batch_worker.jobs.factory import JobFactory
from batch_worker.jobs.imports import Imports
from batch_worker.jobs.neighbours import Spaces
from batch_worker.keeper import Keeper
from batch_worker.settings import WorkerSettings
from support.vendor import KEY, Answer, Fault, Refusal, Vendor
from trivium.domain.breaker import Breakers
from trivium.features import Feature, load_catalogue
from trivium.llm.settings import BackendSettings
from trivium.patterns.steps import make_backends, make_batch_providers
from trivium.precompute.importing import Importer
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.engine import Database
from trivium.store.results import Refresh, ResultRepository
from trivium.store.runs import RunProgress, RunRepository
from trivium.store.tables import dead_item, precompute_chunk, precomputed_result

Name = Literal["openai", "anthropic"]
MODELS = {"openai": "openai/gpt-4.1-mini", "anthropic": "anthropic/claude-haiku-4-5"}
PATHS = {"openai": "POST /v1/batches", "anthropic": "POST /v1/messages/batches"}
LIVE = {"openai": "POST /v1/chat/completions", "anthropic": "POST /v1/messages"}


@dataclass
class Bench:
    """A worker in this loop, and what it works with."""

    name: Name
    vendor: Vendor
    database: Database
    feature: Feature
    runs: RunRepository
    chunks: ChunkRepository
    worker: ChunkWorker
    keeper: Keeper
    folder: Path

    async def begin(self, keys: list[str]) -> str:
        source = self.folder / "texts.jsonl"
        source.write_text(
            "".join(json.dumps({"id": k, "text": f"Where is my card, {k}?"}) + "\n" for k in keys)
        )
        variant, _ = precomputed_variant(self.feature, "by-batch")
        run_id, _ = await self.runs.start(new_run(self.feature, variant, {"kind": "url", "url": str(source)}))
        return run_id

    async def turn(self) -> int:
        """Works on all chunks that may be worked on now; returns how many."""
        ringing = await self.chunks.to_ring(10)
        for chunk_id, _ in ringing:
            await self.worker.work(chunk_id)
        return len(ringing)

    async def soon(self) -> None:
        """Lets the chunks that wait for the vendor have waited."""
        async with self.database.transaction() as connection:
            await connection.execute(update(precompute_chunk).values(not_before=None))

    async def ended(self, run_id: str) -> RunProgress:
        for _ in range(30):
            await self.soon()
            await self.turn()
            if (now := await self.runs.progress(run_id)).ended:
                return now
        raise AssertionError(now)

    async def outputs(self) -> dict[str, Any]:
        async with self.database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(select(precomputed_result)))
        return {row.entity_key: row.output for row in rows}

    async def dead(self) -> dict[str, str]:
        async with self.database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(select(dead_item)))
        return {row.entity_key: row.code for row in rows}


@pytest.fixture(params=["openai", "anthropic"])
async def bench(
    request: pytest.FixtureRequest, root: Path, tmp_path: Path, database: Database
) -> AsyncIterator[Bench]:
    name: Name = request.param
    features = tmp_path / "features"
    shutil.copytree(root / "features", features)
    manifest = features / "ticket-triage/feature.yaml"
    added = f"""
variants:
  batched: {{pattern: api, prompt: prompts/triage.md, models: [{MODELS[name]}], retries: 0}}
  by-batch:
    pattern: precomputed
    archive: messages
    compute: {{variants: [batched], batch_api: true}}
"""
    manifest.write_text(manifest.read_text().replace("\nvariants:\n", added, 1))
    async with Vendor() as vendor, aiohttp.ClientSession() as session:
        settings = BackendSettings(
            features_dir=features,
            edge_url="http://127.0.0.1:9",
            openai_base_url=vendor.openai_url,
            anthropic_base_url=vendor.url,
            TRIVIUM_OPENAI_API_KEY=SecretStr(KEY) if name == "openai" else None,
            TRIVIUM_ANTHROPIC_API_KEY=SecretStr(KEY) if name == "anthropic" else None,
        )
        catalogue = load_catalogue(features)
        runs, chunks = RunRepository(database), ChunkRepository(database)
        archive, results = ArchiveRepository(database), ResultRepository(database)
        backends = make_backends(settings, session, results)
        vendors = make_batch_providers(settings, session)
        jobs = JobFactory(catalogue, backends, Breakers(), archive, Spaces(archive), 4, vendors, chunks, 60.0)
        imports = Imports(WorkerSettings(), archive, Importer(database, chunks, archive))
        worker = ChunkWorker(runs, chunks, archive, results, jobs, imports, 30.0, "test")
        keeper = Keeper(catalogue, runs, results, chunks, vendors)
        feature = catalogue.get("ticket-triage")
        yield Bench(name, vendor, database, feature, runs, chunks, worker, keeper, tmp_path)


def _keys(count: int) -> list[str]:
    return [f"M-{n:03d}" for n in range(count)]


def _id_of(key: str) -> str:
    from trivium.domain.precompute import Item
    from trivium.store.archive import input_hash

    record = {"text": f"Where is my card, {key}?"}
    return custom_id(Item(key, record, input_hash(record)))


async def test_a_chunk_is_one_batch_at_half_the_price_and_no_single_call(bench: Bench) -> None:
    bench.vendor.running_polls = 2
    run = await bench.ended(await bench.begin(_keys(20)))
    assert (run.state, run.computed, run.failed) == ("done", 20, 0)
    assert await bench.outputs() == {key: {"label": "x"} for key in _keys(20)}
    assert len(bench.vendor.batches) == 1
    assert bench.vendor.requests[LIVE[bench.name]] == 0
    assert run.cost_usd > 0
    async with bench.database.transaction() as connection:
        one: Any = (await connection.execute(select(precomputed_result.c.cost_usd))).scalars().first()
    from trivium.domain.inference import Usage
    from trivium.llm.prices import vendor_cost_usd

    single = vendor_cost_usd(bench.name, MODELS[bench.name].partition("/")[2], Usage(9, 3))
    assert single is not None
    assert one == pytest.approx(single / 2)


async def test_a_chunk_that_waits_for_the_vendor_holds_no_slot_and_its_batch_is_noted(bench: Bench) -> None:
    bench.vendor.running_polls = 1_000
    run_id = await bench.begin(_keys(5))
    await bench.turn()  # imports
    await bench.turn()  # hands in
    assert await bench.turn() == 0, "it is looked at again only after a while"
    now = await bench.runs.progress(run_id)
    assert now.chunks == {"done": 1, "pending": 1}
    async with bench.database.transaction() as connection:
        noted = await connection.execute(
            select(precompute_chunk.c.cursor).where(precompute_chunk.c.phase == "compute")
        )
        assert noted.scalar_one() == {"batch": {"vendor": bench.name, "id": bench.vendor.batches[0]}}


async def test_many_looks_do_not_hand_in_again(bench: Bench) -> None:
    bench.vendor.running_polls = 6
    run = await bench.ended(await bench.begin(_keys(3)))
    assert run.state == "done"
    assert len(bench.vendor.batches) == 1


async def test_a_worker_that_dies_between_handing_in_and_noting_pays_once_where_the_vendor_has_tags(
    bench: Bench,
) -> None:
    bench.vendor.faults.append(Fault(PATHS[bench.name], after=True))
    run = await bench.ended(await bench.begin(_keys(4)))
    assert (run.state, run.computed) == ("done", 4)
    assert len(bench.vendor.batches) == (1 if bench.name == "openai" else 2)


async def test_what_an_expired_batch_did_not_run_is_asked_one_by_one(bench: Bench) -> None:
    bench.vendor.expire_after = 12
    run = await bench.ended(await bench.begin(_keys(20)))
    assert (run.state, run.computed, run.total) == ("done", 20, 20)
    assert bench.vendor.requests[LIVE[bench.name]] == 8
    assert len(bench.vendor.batches) == 1


async def test_what_a_cancelled_batch_did_not_run_is_asked_one_by_one(bench: Bench) -> None:
    bench.vendor.cancel_after = 3
    run = await bench.ended(await bench.begin(_keys(10)))
    assert (run.state, run.computed) == ("done", 10)
    assert bench.vendor.requests[LIVE[bench.name]] == 7


async def test_items_that_are_refused_are_dead_and_those_of_another_shape_are_asked_again(
    bench: Bench,
) -> None:
    bench.vendor.outcomes = {
        _id_of("M-001"): Refusal(400, "no"),
        _id_of("M-002"): Answer('{"nothing": 1}'),
        _id_of("M-003"): "absent",
        _id_of("M-004"): "twice",
    }
    run = await bench.ended(await bench.begin(_keys(8)))
    assert (run.state, run.computed, run.failed) == ("done_with_errors", 7, 1)
    assert await bench.dead() == {"M-001": "refused"}
    assert bench.vendor.requests[LIVE[bench.name]] == 2


async def test_results_that_break_off_are_fetched_again(bench: Bench) -> None:
    run_id = await bench.begin(_keys(10))
    await bench.turn()
    await bench.turn()
    bench.vendor.cut_results = 900
    await bench.soon()
    await bench.turn()
    assert not (await bench.runs.progress(run_id)).ended
    bench.vendor.cut_results = None
    run = await bench.ended(run_id)
    assert (run.state, run.computed) == ("done", 10)
    assert bench.vendor.requests[LIVE[bench.name]] == 0


async def test_a_vendor_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.vendor.faults.append(Fault(PATHS[bench.name], status=529 if bench.name == "anthropic" else 503))
    run = await bench.ended(await bench.begin(_keys(3)))
    assert (run.state, run.computed, run.failed) == ("done", 3, 0)


async def test_a_cancelled_runs_batch_is_cancelled_at_the_vendor(bench: Bench) -> None:
    bench.vendor.running_polls = 1_000
    run_id = await bench.begin(_keys(5))
    await bench.turn()
    await bench.turn()
    await bench.runs.cancel(run_id)
    looking = asyncio.create_task(bench.keeper.run())
    path = f"{PATHS[bench.name]}/{{id}}/cancel"
    async with asyncio.timeout(10):
        while not bench.vendor.requests[path]:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.7)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert bench.vendor.requests[path] == 1
    assert await bench.chunks.abandoned(0) == []


async def test_a_single_refresh_does_not_wait_a_day(bench: Bench) -> None:
    await bench.ended(await bench.begin(_keys(2)))
    results = ResultRepository(bench.database)
    await results.ask([Refresh("ticket-triage", "by-batch", "M-001", "correction")])
    variant, _ = precomputed_variant(bench.feature, "by-batch")
    new = new_run(bench.feature, variant, {"kind": "refresh"}, trigger="refresh", force=True)
    assert await bench.runs.start_refresh(new, 10) == 1
    await bench.turn()
    assert bench.vendor.requests[LIVE[bench.name]] == 1
    assert len(bench.vendor.batches) == 1
