import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import func, select

from trivium.store.engine import Database
from trivium.store.precompute import Claim, PrecomputeRepository, Row
from trivium.store.tables import archive_embedding, precompute_chunk, precompute_run, precomputed_result

OpenDatabase = Callable[[str], Database]

PHASES = ("embed", "compare")


def _keys(count: int) -> list[str]:
    return [f"{n:04d}" for n in range(count)]


async def _start(
    ledger: PrecomputeRepository,
    count: int,
    size: int,
    phases: tuple[str, ...] = PHASES,
    version: str = "v1",
) -> str:
    return await ledger.start("similar", "neighbours", version, _keys(count), phases, size)


async def _ids(ledger: PrecomputeRepository) -> list[str]:
    return [chunk_id for chunk_id, _ in await ledger.to_ring(1_000, time.time())]


async def _claim(ledger: PrecomputeRepository, chunk_id: str, lease_s: float = 60) -> Claim:
    claim = await ledger.claim(chunk_id, lease_s)
    assert claim is not None
    return claim


async def _claim_all(ledger: PrecomputeRepository) -> list[Claim]:
    return [await _claim(ledger, chunk_id) for chunk_id in await _ids(ledger)]


async def _expired_and_claimed_anew(ledger: PrecomputeRepository, chunk_id: str) -> tuple[Claim, Claim]:
    late = await _claim(ledger, chunk_id, lease_s=0.01)
    await asyncio.sleep(0.02)
    return late, await _claim(ledger, chunk_id)


def _results(claim: Claim, text: str) -> list[Row]:
    return [
        {
            "feature": claim.feature,
            "entity_key": key,
            "output": {"text": text},
            "input_hash": "0" * 32,
            "variant": claim.variant,
            "variant_version": claim.variant_version,
            "computed_at": time.time(),
            "run_id": claim.run_id,
        }
        for key in _keys(10_000)[int(claim.first_key) : int(claim.last_key) + 1]
    ]


def _embeddings(claim: Claim) -> list[Row]:
    return [
        {"archive": "a", "entity_key": key, "model": "m", "input_hash": "0", "vector": b"v"}
        for key in (claim.first_key, claim.last_key)
    ]


async def _count(database: Database, table: Any) -> int:
    async with database.transaction() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def _outputs(database: Database) -> list[Any]:
    async with database.transaction() as connection:
        return list((await connection.execute(select(precomputed_result.c.output))).scalars())


async def _chunk(database: Database, chunk_id: str) -> Row:
    async with database.transaction() as connection:
        found = await connection.execute(select(precompute_chunk).where(precompute_chunk.c.id == chunk_id))
        return dict(found.mappings().one())


async def _run(database: Database, run_id: str) -> Row:
    async with database.transaction() as connection:
        found = await connection.execute(select(precompute_run).where(precompute_run.c.id == run_id))
        return dict(found.mappings().one())


async def test_many_claimants_at_once_hold_every_chunk_once(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 12, 1)
    ids = await _ids(ledger)
    assert len(ids) == 12

    async def claim_what_is_free() -> list[Claim]:
        return [claim for chunk_id in ids if (claim := await ledger.claim(chunk_id, 60))]

    taken = [c for claims in await asyncio.gather(*(claim_what_is_free() for _ in range(10))) for c in claims]
    assert Counter(claim.chunk_id for claim in taken) == Counter(ids)
    assert {claim.token for claim in taken} == {1}


async def test_of_many_that_claim_one_expired_chunk_at_once_one_gets_it(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 1, 1)
    (chunk_id,) = await _ids(ledger)
    for token in range(1, 4):
        claims = await asyncio.gather(*(ledger.claim(chunk_id, 0.15) for _ in range(10)))
        assert [claim.token for claim in claims if claim] == [token]
        while not await _ids(ledger):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_workers_on_connections_of_their_own_never_share_a_chunk(
    database: Database, open_database: OpenDatabase
) -> None:
    ledgers = [PrecomputeRepository(open_database(str(database.url))) for _ in range(4)]
    await _start(ledgers[0], 40, 1)
    ids = await _ids(ledgers[0])
    claims = await asyncio.gather(*(ledger.claim(i, 60) for i in ids for ledger in ledgers))
    assert Counter(claim.chunk_id for claim in claims if claim) == Counter(ids)


async def test_a_claim_says_what_is_to_be_done(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 5, 3)
    first, second = await _claim_all(ledger)
    assert first == Claim(first.chunk_id, 1, run_id, "embed", "0000", "0002", "similar", "neighbours", "v1")
    assert (second.first_key, second.last_key) == ("0003", "0004")


async def test_an_unknown_chunk_cannot_be_claimed(database: Database) -> None:
    assert await PrecomputeRepository(database).claim("none", 60) is None


async def test_an_expired_lease_is_claimed_again_and_the_late_writer_writes_nothing(
    database: Database,
) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 4, 4, ("compare",))
    late, current = await _expired_and_claimed_anew(ledger, (await _ids(ledger))[0])
    assert (late.token, current.token) == (1, 2)

    assert not await ledger.finish(late, results=_results(late, "late"), embeddings=_embeddings(late))
    assert await _count(database, precomputed_result) == 0
    assert await _count(database, archive_embedding) == 0
    assert (await _chunk(database, late.chunk_id))["state"] == "leased"
    assert (await _run(database, run_id))["state"] == "running"

    assert await ledger.finish(current, results=_results(current, "current"))
    assert not await ledger.finish(late, results=_results(late, "late"))
    assert await _count(database, precomputed_result) == 4
    async with database.transaction() as connection:
        outputs: Sequence[Any] = (
            (await connection.execute(select(precomputed_result.c.output))).scalars().all()
        )
    assert outputs == [{"text": "current"}] * 4


async def test_a_late_worker_neither_fails_nor_frees_nor_prolongs_what_another_holds(
    database: Database,
) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 1, 1)
    late, current = await _expired_and_claimed_anew(ledger, (await _ids(ledger))[0])
    before = await _chunk(database, late.chunk_id)
    await ledger.fail(late, "late")
    await ledger.hand_back(late)
    assert not await ledger.renew(late, 600)
    assert await _chunk(database, late.chunk_id) == before
    assert await ledger.renew(current, 60)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_late_and_a_current_writer_at_once_leave_one_result_each(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    for turn in range(8):
        run_id = await _start(ledger, 3, 3, ("compare",), f"v{turn}")
        late, current = await _expired_and_claimed_anew(ledger, (await _ids(ledger))[0])
        written = await asyncio.gather(
            ledger.finish(late, results=_results(late, "late")),
            ledger.finish(current, results=_results(current, "current")),
        )
        assert list(written) == [False, True]
        progress = await ledger.progress(run_id)
        assert progress is not None and progress.state == "done"
    async with database.transaction() as connection:
        outputs: Sequence[Any] = (
            (await connection.execute(select(precomputed_result.c.output))).scalars().all()
        )
    assert outputs == [{"text": "current"}] * 3


async def test_a_renewed_lease_is_not_free(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 1, 1)
    (chunk_id,) = await _ids(ledger)
    claim = await _claim(ledger, chunk_id, lease_s=0.05)
    assert await ledger.renew(claim, 60)
    await asyncio.sleep(0.06)
    assert await ledger.claim(chunk_id, 60) is None
    assert await _ids(ledger) == []


async def test_a_finished_chunk_is_finished_for_good(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 2, 1, ("compare",))
    claim, _ = await _claim_all(ledger)
    assert await ledger.finish(claim, results=_results(claim, "first"))
    assert not await ledger.finish(claim, results=_results(claim, "second"))
    assert not await ledger.renew(claim, 60)
    await ledger.fail(claim, "too late")
    await ledger.hand_back(claim)
    assert (await _chunk(database, claim.chunk_id))["state"] == "done"
    assert await ledger.claim(claim.chunk_id, 60) is None


async def test_results_and_done_are_written_together_or_not_at_all(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 3, 3, ("compare",))
    (claim,) = await _claim_all(ledger)
    refused = _results(claim, "x")
    refused[-1]["input_hash"] = None
    with pytest.raises(Exception, match="input_hash"):
        await ledger.finish(claim, results=refused, embeddings=_embeddings(claim))
    assert await _count(database, precomputed_result) == 0
    assert await _count(database, archive_embedding) == 0
    assert (await _chunk(database, claim.chunk_id))["state"] == "leased"

    assert await ledger.finish(claim, results=_results(claim, "x"), embeddings=_embeddings(claim))
    assert await _count(database, precomputed_result) == 3
    assert await _count(database, archive_embedding) == 2
    assert (await _chunk(database, claim.chunk_id))["state"] == "done"
    assert (await _run(database, run_id))["state"] == "done"


async def test_phases_come_one_after_the_other_and_the_last_ends_the_run(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    phases = ("embed", "compare", "after", "and-then", "last")
    run_id = await _start(ledger, 4, 2, phases)
    for phase in phases:
        assert (await _run(database, run_id))["phase"] == phase
        claims = await _claim_all(ledger)
        assert [claim.phase for claim in claims] == [phase, phase]
        for claim in claims:
            assert await ledger.finish(claim)
    ended = await _run(database, run_id)
    assert ended["state"] == "done"
    assert abs(ended["finished_at"] - time.time()) < 5
    assert await _ids(ledger) == []


async def test_a_chunk_of_a_phase_that_has_not_come_cannot_be_claimed(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 1, 1)
    async with database.transaction() as connection:
        of_later = select(precompute_chunk.c.id).where(precompute_chunk.c.phase == "compare")
        chunk_id: str = (await connection.execute(of_later)).scalar_one()
    assert await ledger.claim(chunk_id, 60) is None


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_last_chunks_finished_at_once_advance_the_run_once(
    database: Database, open_database: OpenDatabase
) -> None:
    first, second = PrecomputeRepository(database), PrecomputeRepository(open_database(str(database.url)))
    for turn in range(25):
        run_id = await _start(first, 2, 1, ("embed", "compare", "last"), f"v{turn}")
        for after in ("compare", "last", "last"):
            left, right = await _claim_all(first)
            assert all(await asyncio.gather(first.finish(left), second.finish(right)))
            assert (await _run(database, run_id))["phase"] == after
        ended = await _run(database, run_id)
        assert ended["state"] == "done"
        assert ended["finished_at"]
    assert await first.pending() == 0


async def test_many_workers_carry_a_run_to_its_end_at_once(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 20, 2)

    async def work() -> None:
        while (await _run(database, run_id))["state"] == "running":
            for chunk_id in await _ids(ledger):
                if claim := await ledger.claim(chunk_id, 60):
                    made = _results(claim, "x") if claim.phase == "compare" else []
                    assert await ledger.finish(claim, results=made)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(15):
        await asyncio.gather(*(work() for _ in range(6)))
    assert await _count(database, precomputed_result) == 20
    progress = await ledger.progress(run_id)
    assert progress is not None
    assert (progress.state, progress.done, progress.total) == ("done", 40, 40)


async def test_the_third_failure_fails_the_chunk_and_its_run(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 2, 1)
    poison, other = await _ids(ledger)
    for failure in (1, 2):
        await ledger.fail(await _claim(ledger, poison), f"failure {failure}")
        chunk = await _chunk(database, poison)
        assert (chunk["state"], chunk["failures"], chunk["error"]) == (
            "pending",
            failure,
            f"failure {failure}",
        )
        assert (await _run(database, run_id))["state"] == "running"
    held = await _claim(ledger, other)
    await ledger.fail(await _claim(ledger, poison), "failure 3")
    assert (await _chunk(database, poison))["state"] == "failed"
    progress = await ledger.progress(run_id)
    assert progress is not None
    assert (progress.state, progress.error) == ("failed", "failure 3")
    assert (await _run(database, run_id))["finished_at"]
    assert await _ids(ledger) == []
    assert await ledger.pending() == 0

    await ledger.finish(held)  # a worker that was still at it does not revive the run
    assert (await _run(database, run_id))["state"] == "failed"


async def test_chunks_of_a_failed_run_cannot_be_claimed(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 2, 1)
    poison, rung_already = await _ids(ledger)
    for _ in range(3):
        await ledger.fail(await _claim(ledger, poison), "no")
    assert await ledger.claim(poison, 60) is None
    assert await ledger.claim(rung_already, 60) is None


async def test_a_chunk_that_failed_twice_may_still_be_done(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 1, 1, ("compare",))
    (chunk_id,) = await _ids(ledger)
    for _ in range(2):
        await ledger.fail(await _claim(ledger, chunk_id), "for now")
    assert await ledger.finish(await _claim(ledger, chunk_id))
    progress = await ledger.progress(run_id)
    assert progress is not None
    assert (progress.state, progress.error) == ("done", None)
    assert (await _chunk(database, chunk_id))["error"] is None


async def test_a_failed_run_may_be_started_anew(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    failed = await _start(ledger, 1, 1)
    for _ in range(3):
        await ledger.fail(await _claim(ledger, (await _ids(ledger))[0]), "no")
    anew = await _start(ledger, 1, 1)
    assert anew != failed
    latest = await ledger.latest("similar", "v1")
    assert latest is not None
    assert (latest.run_id, latest.state) == (anew, "running")


async def test_handing_back_counts_no_failure_however_often(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 1, 1)
    (chunk_id,) = await _ids(ledger)
    for token in range(1, 6):
        claim = await _claim(ledger, chunk_id)
        assert claim.token == token
        await ledger.hand_back(claim)
        chunk = await _chunk(database, chunk_id)
        assert (chunk["state"], chunk["failures"], chunk["lease_until"]) == ("pending", 0, None)
        assert not await ledger.finish(claim)


async def test_progress_counts_entities_over_all_phases(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 7, 3)
    seen = []
    for _ in PHASES:
        for claim in await _claim_all(ledger):
            await ledger.finish(claim)
            progress = await ledger.progress(run_id)
            assert progress is not None
            assert progress.total == 14
            seen.append((progress.done, progress.phase, progress.state))
    assert seen == [
        (3, "embed", "running"),
        (6, "embed", "running"),
        (7, "compare", "running"),
        (10, "compare", "running"),
        (13, "compare", "running"),
        (14, "compare", "done"),
    ]
    assert await ledger.latest("similar", "v1") == await ledger.progress(run_id)
    assert await ledger.progress("none") is None
    assert await ledger.latest("similar", "other") is None


async def test_pending_counts_chunks_that_wait_or_are_worked_on(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    assert await ledger.pending() == 0
    await _start(ledger, 3, 1)
    assert await ledger.pending() == 6
    claim, *_ = await _claim_all(ledger)
    assert await ledger.pending() == 6
    await ledger.finish(claim)
    assert await ledger.pending() == 5


async def test_what_is_rung_is_free_bounded_and_in_order(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    await _start(ledger, 5, 1)
    ids = await _ids(ledger)
    assert ids == sorted(ids)
    assert await ledger.to_ring(2, time.time()) == [(ids[0], 0), (ids[1], 0)]
    await _claim(ledger, ids[0], lease_s=30)
    assert await ledger.to_ring(2, time.time()) == [(ids[1], 0), (ids[2], 0)]
    assert (ids[0], 1) in await ledger.to_ring(10, time.time() + 31)


async def test_a_running_run_is_returned_instead_of_a_second_one(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 2, 1)
    assert await _start(ledger, 2, 1) == run_id
    assert await _start(ledger, 2, 1, version="v2") != run_id
    assert await _count(database, precompute_run) == 2
    assert await _count(database, precompute_chunk) == 8


async def test_a_run_started_by_many_at_once_is_one_run(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    started = await asyncio.gather(*(_start(ledger, 2, 1) for _ in range(8)))
    assert len(set(started)) == 1
    assert await _count(database, precompute_run) == 1
    assert await _count(database, precompute_chunk) == 4


async def test_an_empty_archive_gives_a_done_run(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 0, 10)
    progress = await ledger.progress(run_id)
    assert progress is not None
    assert (progress.state, progress.done, progress.total) == ("done", 0, 0)
    assert (await _run(database, run_id))["finished_at"] is not None
    assert await _ids(ledger) == []
    assert await ledger.pending() == 0


async def test_a_run_of_thousands_of_chunks_is_stored(database: Database) -> None:
    ledger = PrecomputeRepository(database)
    run_id = await _start(ledger, 4_000, 1)
    progress = await ledger.progress(run_id)
    assert progress is not None and progress.total == 8_000
    assert await ledger.pending() == 8_000
