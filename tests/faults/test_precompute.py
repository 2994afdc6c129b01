"""Whatever is killed while a run is under way: every row is there in the end, once, and whole."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.edge import RunningEdge
from support.postgres import Postgres
from support.valkey import Valkey
from support.workers import Workers, make_features
from trivium.datasets import read_records
from trivium.store.engine import Database, migrate
from trivium.store.runs import RunProgress

Records = dict[str, dict[str, Any]]
Tell = Callable[[str], None]


@pytest.fixture
async def workers(
    tmp_path: Path, postgres: Postgres, valkey: Valkey, edge: RunningEdge
) -> AsyncIterator[Workers]:
    """On a database of their own; none runs yet."""
    url = postgres.new_database()
    database = Database(url)
    await migrate(database)
    await database.close()
    made = Workers(tmp_path, make_features(tmp_path), url, valkey.url, f"http://127.0.0.1:{edge.port}")
    yield made
    await made.database.close()


@pytest.fixture
def tell(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Tell:
    """Reports what a recovery took; for the reader, nothing is asserted of it."""

    def say(line: str) -> None:
        record_property("recovery", line)
        with capsys.disabled():
            sys.stderr.write(f"\n  {line}\n")

    return say


@pytest.fixture
def valkey(tmp_path: Path) -> Any:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with Valkey(folder) as server:
        yield server


@pytest.fixture(scope="module")
def texts(root: Path) -> list[str]:
    return [str(r["text"]) for r in read_records(root / "features/similar-tickets/archive.jsonl", ("text",))]


def _records(texts: list[str], count: int) -> Records:
    return {f"M-{n:06d}": {"text": f"{texts[n % len(texts)]} ({n})"} for n in range(count)}


@dataclass
class Outage:
    """What became of a run whose Redis was away."""

    workers: Workers
    records: Records
    run: RunProgress
    next_chunk_s: float


@pytest.fixture(scope="module", autouse=True)
async def outage(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, edge: RunningEdge, texts: list[str]
) -> AsyncIterator[asyncio.Task[Outage]]:
    """Half a minute without Redis, on servers of its own, while the other tests run: it is all waiting."""
    folder = tmp_path_factory.mktemp("outage")
    (folder / "valkey").mkdir()

    async def happen(workers: Workers, valkey: Valkey) -> Outage:
        records = _records(texts, 1_200)
        with workers.running(2):
            run_id = await workers.begin("by-edge", records)
            await workers.until(run_id, lambda now: now.computed > 0)
            valkey.kill()
            await asyncio.sleep(30)
            valkey.forget()
            valkey.start()
            back_at = time.monotonic()
            before = (await workers.runs.progress(run_id)).computed
            await workers.until(run_id, lambda now: now.ended or now.computed > before)
            next_chunk_s = time.monotonic() - back_at
            return Outage(workers, records, await workers.ended(run_id), next_chunk_s)

    with Valkey(folder / "valkey") as valkey:
        url = f"http://127.0.0.1:{edge.port}"
        workers = Workers(folder, make_features(folder), postgres.new_database(), valkey.url, url)
        await migrate(workers.database)  # not in the task: Alembic migrates one database at a time
        happening = asyncio.create_task(happen(workers, valkey))
        yield happening
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)
        await workers.database.close()


async def test_eight_kills_at_random_moments_lose_and_double_nothing(
    workers: Workers, texts: list[str]
) -> None:
    records = _records(texts, 4_500)
    chance = random.Random(7)
    kills = 0
    with workers.running(3):
        run_id = await workers.begin("by-edge", records)
        await workers.until(run_id, lambda now: now.computed > 0)
        while kills < 8:
            await asyncio.sleep(chance.uniform(0.1, 0.9))
            number = chance.randint(1, 3)
            workers.kill(number)
            workers.start(number)
            kills += 1
            now = await workers.runs.progress(run_id)
            assert not now.ended, f"the run ended after {kills} kills"
        run = await workers.ended(run_id)
    assert run.state == "done"
    await workers.account("by-edge", records, run)


async def test_a_killed_workers_chunks_are_taken_over_within_the_lease_and_a_moment(
    workers: Workers, texts: list[str], tell: Tell
) -> None:
    records = _records(texts, 1_200)
    with workers.running(1):
        run_id = await workers.begin("by-edge", records)
        await workers.until(run_id, lambda now: now.computed > 0)
        held = (await workers.until(run_id, lambda now: now.chunks.get("leased", 0) > 0)).chunks["leased"]
        workers.kill(1)
        killed_at = time.monotonic()
        workers.start(2)
        run = await workers.ended(run_id)
        took_s = time.monotonic() - killed_at
    assert held
    await workers.account("by-edge", records, run)
    tell(f"killed with {held} chunks in hand; the run ended {took_s:.1f} s later")


async def test_what_redis_forgets_is_rung_again(workers: Workers, valkey: Valkey, texts: list[str]) -> None:
    records = _records(texts, 1_200)
    with workers.running(2):
        run_id = await workers.begin("by-edge", records)
        for _ in range(4):
            before = (await workers.until(run_id, lambda now: now.computed > 0)).computed
            valkey.command("FLUSHALL")
            await workers.until(run_id, lambda now, b=before: now.ended or now.computed > b)
        run = await workers.ended(run_id)
    await workers.account("by-edge", records, run)


async def test_the_edge_model_killed_costs_only_the_time(
    workers: Workers, root: Path, tmp_path: Path, texts: list[str], tell: Tell
) -> None:
    records = _records(texts, 1_200)
    own = RunningEdge(root / "models", tmp_path / "edge.log")
    workers.edge_url = f"http://127.0.0.1:{own.port}"
    own.start()
    try:
        with workers.running(2):
            run_id = await workers.begin("by-edge", records)
            await workers.until(run_id, lambda now: now.computed > 0)
            assert own.process
            own.process.kill()
            own.process.wait()
            await asyncio.sleep(4)
            assert not (await workers.runs.progress(run_id)).ended
            own.start()
            back_at = time.monotonic()
            before = (await workers.runs.progress(run_id)).computed
            await workers.until(run_id, lambda now: now.ended or now.computed > before)
            tell(f"edge model back: the next chunk {time.monotonic() - back_at:.1f} s later")
            run = await workers.ended(run_id)
    finally:
        own.stop()
    assert run.failed == 0
    await workers.account("by-edge", records, run)


async def test_postgresql_restarted_in_the_middle_costs_only_the_time(
    tmp_path: Path, valkey: Valkey, edge: RunningEdge, texts: list[str], tell: Tell
) -> None:
    records = _records(texts, 1_200)
    with Postgres() as server:
        url = server.new_database()
        workers = Workers(tmp_path, make_features(tmp_path), url, valkey.url, f"http://127.0.0.1:{edge.port}")
        await migrate(workers.database)
        with workers.running(2):
            run_id = await workers.begin("by-edge", records)
            await workers.until(run_id, lambda now: now.computed > 0)
            server.kill()
            await asyncio.sleep(2)
            server.start_again()
            back_at = time.monotonic()
            before = (await workers.runs.progress(run_id)).computed
            await workers.until(run_id, lambda now: now.ended or now.computed > before)
            tell(f"PostgreSQL back: the next chunk {time.monotonic() - back_at:.1f} s later")
            run = await workers.ended(run_id)
        await workers.account("by-edge", records, run)
        await workers.database.close()


async def test_a_frozen_worker_that_wakes_after_its_lease_was_taken_writes_nothing(
    workers: Workers, texts: list[str]
) -> None:
    records = _records(texts, 2_500)
    with workers.running(2):
        run_id = await workers.begin("by-edge", records)
        await workers.until(run_id, lambda now: now.computed > 0)
        for _ in range(4):
            await workers.holds_a_chunk(1)
            workers.send(1, signal.SIGSTOP)
            await asyncio.sleep(3)  # its leases are of two seconds
            workers.send(1, signal.SIGCONT)
            await asyncio.sleep(0.3)
            if "lease_lost" in workers.log(1):
                break
        run = await workers.ended(run_id)
    assert run.state == "done"
    await workers.account("by-edge", records, run)
    assert "lease_lost" in workers.log(1), "it held no chunk when it was frozen; nothing was tried"


async def test_a_poison_row_in_every_tenth_chunk_ends_up_alone_and_the_rest_is_done(
    workers: Workers, texts: list[str]
) -> None:
    records = _records(texts, 1_280)
    poison = [f"M-{n:06d}" for n in range(37, 1_280, 640)]
    for key in poison:
        records[key] = {"text": "far too long " * 2_000}  # the edge model refuses the whole request
    with workers.running(2):
        run_id = await workers.begin("by-edge", records)
        run = await workers.ended(run_id)
    assert (run.state, run.failed) == ("done_with_errors", len(poison))
    dead = [d for d in await workers.runs.dead_items(run_id, limit=1_000) if not d["abstained"]]
    assert [item["entity_key"] for item in dead] == poison
    assert {item["code"] for item in dead} == {"refused"}
    await workers.account("by-edge", records, run)


async def test_a_run_of_which_everything_fails_stops_itself(workers: Workers) -> None:
    records = {f"M-{n:06d}": {"text": "far too long " * 2_000} for n in range(640)}
    with workers.running(1):
        run = await workers.ended(await workers.begin("by-edge", records))
    assert run.state == "failed"
    assert run.error and "max_error_ratio" in run.error
    assert 20 <= run.failed < 40


async def test_a_worker_that_is_told_to_end_finishes_or_hands_back_what_it_holds(
    workers: Workers, texts: list[str]
) -> None:
    records = _records(texts, 1_200)
    workers.settings = {"TRIVIUM_WORKER_LEASE_S": "60"}  # what it did not hand back would be missing for long
    with workers.running(1):
        run_id = await workers.begin("by-edge", records)
        await workers.until(run_id, lambda now: now.computed > 0)
        workers.send(1, signal.SIGTERM)
        assert workers.processes[1].wait(15) in (0, -signal.SIGTERM)
        left = await workers.runs.progress(run_id)
        assert left.chunks.get("leased", 0) == 0
        workers.start(2)
        run = await workers.ended(run_id, 40)
    await workers.account("by-edge", records, run)


async def test_a_cancelled_run_stops_at_once_and_keeps_what_it_has(
    workers: Workers, texts: list[str]
) -> None:
    records = _records(texts, 1_200)
    with workers.running(2):
        run_id = await workers.begin("by-edge", records)
        await workers.until(run_id, lambda now: now.computed > 0)
        assert await workers.runs.cancel(run_id)
        at_cancel = await workers.runs.progress(run_id)
        await asyncio.sleep(1.5)
        later = await workers.runs.progress(run_id)
    assert later.state == "cancelled"
    assert 0 < later.computed == at_cancel.computed < len(records)


async def test_redis_away_for_thirty_seconds_and_back_empty_costs_only_the_time(
    outage: asyncio.Task[Outage], tell: Tell
) -> None:
    found = await outage
    assert found.run.state == "done"
    await found.workers.account("by-edge", found.records, found.run)
    tell(f"Redis back: the next chunk {found.next_chunk_s:.1f} s later")
