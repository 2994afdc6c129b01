"""Records and the chunks that cover them are one transaction, under a lease."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.ledger import ARCHIVE, Ledger, keys_of, record_of
from trivium.domain.manifest import Compute, PrecomputedVariant
from trivium.domain.precompute import COMPUTE
from trivium.errors import InvalidRequest
from trivium.precompute.importing import Importer, refuse_bad_lines
from trivium.precompute.lease import LeaseLost, kept
from trivium.precompute.sources import Portion
from trivium.store.engine import Database
from trivium.store.runs import NewRun
from trivium.store.tables import archive_item

SPEC = PrecomputedVariant(pattern="precomputed", archive=ARCHIVE, compute=Compute(variants=["edge-v1"]))


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def _importer(ledger: Ledger) -> Importer:
    return Importer(ledger.database, ledger.chunks, ledger.archive)


async def _portions(count: int, start: int = 0, stop_at: int | None = None) -> AsyncIterator[Portion]:
    for number in range(start, count):
        if number == stop_at:
            raise ConnectionError("the source broke")
        keys = keys_of(2 * count)[2 * number : 2 * number + 2]
        yield Portion(keys, {key: record_of(key) for key in keys}, place={"line": number + 1})


async def _begin(ledger: Ledger, lease_s: float = 60) -> str:
    new = NewRun("triage", "stored", "v1", {"kind": "body"})
    run_id, _ = await ledger.runs.start(new, lease_s=lease_s)
    return run_id


async def test_an_import_that_broke_goes_on_and_every_entity_is_in_one_chunk(ledger: Ledger) -> None:
    run_id = await _begin(ledger)
    claim = await ledger.chunks.held_import(run_id)
    with pytest.raises(ConnectionError):
        await _importer(ledger).run(claim, SPEC, _portions(5, stop_at=3))
    assert await ledger.count(archive_item) == 6
    assert await ledger.chunks.hand_back(claim)
    again = await ledger.claim()
    assert again.cursor == {"line": 3, "position": 3}
    await _importer(ledger).run(again, SPEC, _portions(5, start=again.cursor["line"]))
    assert (await ledger.progress(run_id)).phase == COMPUTE
    claims = await ledger.claim_all()
    assert sorted(key for one in claims for key in one.keys) == keys_of(10)
    assert [one.position for one in claims] == [1, 2, 3, 4, 5]


async def test_an_import_whose_lease_was_taken_writes_nothing_more(ledger: Ledger) -> None:
    run_id = await _begin(ledger, lease_s=0.01)
    late = await ledger.chunks.held_import(run_id)
    await asyncio.sleep(0.05)
    assert await ledger.chunks.claim(late.chunk_id, 60)
    with pytest.raises(LeaseLost):
        await _importer(ledger).run(late, SPEC, _portions(2))
    assert await ledger.count(archive_item) == 0


async def test_the_lease_is_kept_while_the_work_lasts(ledger: Ledger) -> None:
    run_id = await _begin(ledger, lease_s=0.3)
    claim = await ledger.chunks.held_import(run_id)
    async with kept(ledger.chunks, claim, 0.3):
        await asyncio.sleep(1)
        assert await ledger.chunks.claim(claim.chunk_id, 60) is None


async def test_work_is_interrupted_when_its_run_is_cancelled(ledger: Ledger) -> None:
    run_id = await _begin(ledger)
    claim = await ledger.chunks.held_import(run_id)
    await ledger.runs.cancel(run_id)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(10), kept(ledger.chunks, claim, 0.3):
            await asyncio.sleep(60)


async def test_a_cancellation_from_outside_stays_one(ledger: Ledger) -> None:
    claim = await ledger.chunks.held_import(await _begin(ledger))

    async def work() -> None:
        async with kept(ledger.chunks, claim, 30):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_strict_reads_to_the_end_and_tells_the_first_bad_lines() -> None:
    async def portions() -> AsyncIterator[Portion]:
        for number in range(30):
            yield Portion(bad=[{"line": number, "message": "wrong"}])

    with pytest.raises(InvalidRequest, match=r"strict: 30 lines are wrong.*line 0: wrong.*and 10 more"):
        await refuse_bad_lines(portions())
