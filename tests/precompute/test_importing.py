"""Records and the chunks that cover them are one transaction, under a lease."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from support.ledger import ARCHIVE, Ledger, keys_of, record_of
from trivium.domain.precompute import COMPUTE, EMBED, IMPORT
from trivium.domain.variants import Compute, Neighbours, PrecomputedVariant
from trivium.errors import InvalidRequest
from trivium.precompute.importing import Importer, refuse_bad_lines
from trivium.precompute.lease import LeaseLost, kept
from trivium.precompute.sources import Portion
from trivium.store.engine import Database
from trivium.store.runs import NewRun
from trivium.store.tables import archive_item, precompute_chunk

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


async def test_a_portions_records_and_their_chunk_are_written_together_or_not_at_all(
    ledger: Ledger,
) -> None:
    claim = await ledger.chunks.held_import(await _begin(ledger))

    async def portions() -> AsyncIterator[Portion]:
        yield Portion(["1"], {"1": {"text": "x"}}, place={"line": 1})
        yield Portion(["2", "3"], {"2": {"text": "x"}, "3": {"text": 1 << 70}}, place={"line": 3})

    with pytest.raises(TypeError):
        await _importer(ledger).run(claim, SPEC, portions())
    assert await ledger.archive.keys(ARCHIVE) == ["1"]
    columns = (precompute_chunk.c.phase, precompute_chunk.c.entity_keys, precompute_chunk.c.cursor)
    async with ledger.database.transaction() as connection:
        rows = [tuple(row) for row in await connection.execute(select(*columns).order_by("phase"))]
    assert rows == [(COMPUTE, ["1"], None), (IMPORT, [], {"line": 1, "position": 1})]


@pytest.mark.parametrize("stop_after", [0.0, 0.005, 0.02, 0.05])
async def test_an_import_that_is_killed_at_any_moment_goes_on_where_it_was(
    ledger: Ledger, stop_after: float
) -> None:
    run_id = await _begin(ledger, lease_s=0.5)
    claim = await ledger.chunks.held_import(run_id)
    working = asyncio.create_task(_importer(ledger).run(claim, SPEC, _portions(40)))
    await asyncio.sleep(stop_after)
    working.cancel()
    await asyncio.wait({working})
    async with asyncio.timeout(5):
        while not await ledger.chunks.to_ring(1):
            await asyncio.sleep(0.05)  # nobody hands it back: its lease ends
    again = await ledger.claim()
    start = (again.cursor or {}).get("line", 0)
    assert start == (again.cursor or {}).get("position", 0)
    await _importer(ledger).run(again, SPEC, _portions(40, start=start))
    claims = await ledger.claim_all()
    assert [key for one in claims for key in one.keys] == keys_of(80)
    assert await ledger.count(archive_item) == 80
    assert (await ledger.progress(run_id)).total == 80


async def test_an_import_that_loses_its_lease_on_the_way_keeps_what_it_wrote_and_writes_no_more(
    ledger: Ledger,
) -> None:
    run_id = await _begin(ledger)
    claim = await ledger.chunks.held_import(run_id)

    async def portions() -> AsyncIterator[Portion]:
        async for portion in _portions(4):
            if portion.place["line"] == 3:
                await ledger.runs.cancel(run_id)
            yield portion

    with pytest.raises(LeaseLost):
        await _importer(ledger).run(claim, SPEC, portions())
    assert await ledger.archive.keys(ARCHIVE) == keys_of(4)
    run = await ledger.progress(run_id)
    assert (run.state, run.total) == ("cancelled", 4)
    assert await ledger.chunks.to_ring(10) == []


async def test_the_source_is_closed_however_the_import_ends(ledger: Ledger) -> None:
    claim = await ledger.chunks.held_import(await _begin(ledger))
    closed = []

    async def portions() -> AsyncIterator[Portion]:
        try:
            yield Portion(["1"], {"1": {}}, place={"line": 1})
            yield Portion(["2"], {"2": {}}, place={"line": 2})
        finally:
            closed.append(True)

    await ledger.runs.cancel(claim.run_id)
    with pytest.raises(LeaseLost):
        await _importer(ledger).run(claim, SPEC, portions())
    assert closed == [True]


async def test_bad_lines_are_counted_all_and_the_first_hundred_are_kept(ledger: Ledger) -> None:
    run_id = await _begin(ledger)
    claim = await ledger.chunks.held_import(run_id)

    async def portions() -> AsyncIterator[Portion]:
        for start in range(0, 180, 60):
            bad = [{"line": start + n, "message": "wrong"} for n in range(60)]
            yield Portion(records={}, bad=bad, place={"line": start + 60})

    await _importer(ledger).run(claim, SPEC, portions())
    run = await ledger.progress(run_id)
    assert (run.state, run.total, run.bad_lines) == ("done_with_errors", 0, 180)
    assert [error["line"] for error in run.line_errors] == list(range(100))


async def test_over_neighbours_what_is_imported_is_embedded_first(ledger: Ledger) -> None:
    compute = Compute(neighbours=Neighbours(model="m/1"))
    spec = PrecomputedVariant(pattern="precomputed", archive=ARCHIVE, compute=compute)
    new = NewRun("triage", "stored", "v1", {"kind": "body"}, selects=True)
    run_id, _ = await ledger.runs.start(new, lease_s=60)
    await _importer(ledger).run(await ledger.chunks.held_import(run_id), spec, _portions(2))
    assert {one.phase for one in await ledger.claim_all()} == {EMBED}


async def test_strict_lets_lines_pass_that_are_all_right_and_reads_each_once() -> None:
    read = []

    async def portions() -> AsyncIterator[Portion]:
        async for portion in _portions(3):
            read.append(portion.place["line"])
            yield portion

    await refuse_bad_lines(portions())
    assert read == [1, 2, 3]


async def test_what_the_work_itself_raises_is_what_is_raised(ledger: Ledger) -> None:
    claim = await ledger.chunks.held_import(await _begin(ledger))

    async def work() -> None:
        async with kept(ledger.chunks, claim, 0.3):
            await asyncio.sleep(0.2)
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert await ledger.chunks.renew(claim, 60), "the lease is still held"


async def test_a_lease_that_ended_before_it_was_renewed_interrupts_the_work_of_who_lost_it(
    ledger: Ledger,
) -> None:
    claim = await ledger.chunks.held_import(await _begin(ledger, lease_s=0.01))
    await asyncio.sleep(0.05)
    other = await ledger.claim()
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(10), kept(ledger.chunks, claim, 0.3):
            await asyncio.sleep(60)
    assert await ledger.chunks.renew(other, 60)
    task = asyncio.current_task()
    assert task and not task.cancelling()
