import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from support.ledger import ARCHIVE, Ledger, dead_of, item_of, keys_of, record_of, results_of
from trivium.domain.precompute import COMPUTE, EMBED, SELECT, Batch, Embedding, Result
from trivium.store.engine import Database
from trivium.store.tables import archive_embedding, dead_item, precompute_chunk, precomputed_result

OpenDatabase = Callable[[str], Database]


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


async def _labels(ledger: Ledger) -> dict[str, str]:
    columns = (precomputed_result.c.entity_key, precomputed_result.c.output)
    async with ledger.database.transaction() as connection:
        rows: list[Any] = list(await connection.execute(select(*columns)))
    return {row.entity_key: row.output["label"] for row in rows}


async def test_many_claimants_at_once_hold_every_chunk_once(ledger: Ledger) -> None:
    await ledger.start(12, 1)
    taken = await asyncio.gather(*(ledger.claim_all() for _ in range(10)))
    claims = [claim for claims in taken for claim in claims]
    assert Counter(claim.keys[0] for claim in claims) == Counter(keys_of(12))
    assert {claim.token for claim in claims} == {1}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_workers_on_connections_of_their_own_never_share_a_chunk(
    ledger: Ledger, open_database: OpenDatabase
) -> None:
    await ledger.start(40, 1)
    others = [Ledger(open_database(str(ledger.database.url))) for _ in range(4)]
    claims = await asyncio.gather(*(other.claim_all() for other in others))
    assert Counter(c.chunk_id for some in claims for c in some).most_common(1)[0][1] == 1
    assert sum(map(len, claims)) == 40


async def test_an_expired_lease_is_claimed_again_and_the_late_writer_writes_nothing(ledger: Ledger) -> None:
    run_id = await ledger.start(3, 3)
    late = await ledger.claim(lease_s=0.01)
    await asyncio.sleep(0.05)
    new = await ledger.claim()
    assert (new.chunk_id, new.token, new.attempts) == (late.chunk_id, 2, 2)
    batch = results_of(late.keys, "late")
    batch.dead = dead_of(["K-00002"]).dead
    batch.embeddings = [Embedding("K-00000", "h", b"v")]
    assert not await ledger.chunks.checkpoint(late, batch, ends=True, archive=ARCHIVE, model="m")
    assert not await ledger.chunks.renew(late, 60)
    assert not await ledger.chunks.hand_back(late)
    assert not await ledger.chunks.split(late, "no", late.keys)
    assert [await ledger.count(t) for t in (precomputed_result, dead_item, archive_embedding)] == [0, 0, 0]
    assert await ledger.finish(new)
    assert set((await _labels(ledger)).values()) == {"x"}
    assert (await ledger.progress(run_id)).computed == 3


async def test_leases_go_by_the_databases_clock(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger.start(1, 1)
    held = await ledger.claim(lease_s=60)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3600)
    assert await ledger.chunks.to_ring(10) == [], "a worker whose clock is an hour ahead takes nothing"
    assert await ledger.chunks.claim(held.chunk_id, 60) is None


async def test_results_and_place_are_written_together_or_not_at_all(ledger: Ledger) -> None:
    await ledger.start(2, 2)
    claim = await ledger.claim()
    good, other = (Result(item_of("K-00000"), {"label": label}) for label in "xy")
    broken = Batch(results=[good, other])  # PostgreSQL refuses two of one key
    if ledger.database.is_sqlite:
        broken.results[1] = replace(broken.results[1], confidence=object())  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"cannot affect row a second time|type .object. is not supported"):
        await ledger.chunks.checkpoint(claim, broken, ends=True)
    assert await ledger.count(precomputed_result) == 0
    assert await ledger.finish(claim), "the chunk is still held"


async def test_a_chunk_goes_on_from_its_last_checkpoint(ledger: Ledger) -> None:
    run_id = await ledger.start(4, 4)
    claim = await ledger.claim()
    assert await ledger.chunks.checkpoint(claim, results_of(claim.keys[:2]), ends=False, cursor={"at": 2})
    assert (await ledger.progress(run_id)).computed == 2
    assert await ledger.chunks.hand_back(claim)
    again = await ledger.claim()
    assert again.cursor == {"at": 2}
    assert again.attempts == 1, "a hand-back is no lost lease"
    assert await ledger.finish(again, results_of(again.keys[2:]))
    run = await ledger.progress(run_id)
    assert (run.state, run.computed, run.total) == ("done", 4, 4)


async def test_halves_of_a_chunk_keep_every_key_once_and_the_counts_add_up(ledger: Ledger) -> None:
    run_id = await ledger.start(7, 7)
    claim = await ledger.claim()
    await ledger.chunks.checkpoint(claim, results_of(claim.keys[:2]), ends=False, cursor={"at": 2})
    assert await ledger.chunks.split(claim, "it fails", claim.keys[2:])
    halves = await ledger.claim_all()
    assert sorted(key for half in halves for key in half.keys) == keys_of(7)[2:]
    assert {half.failures for half in halves} == {1}
    for half in halves:
        assert await ledger.finish(half)
    run = await ledger.progress(run_id)
    assert (run.state, run.total, run.computed, run.steps_done) == ("done", 7, 7, 7)
    assert run.chunks == {"done": 3, "split": 1}


async def test_what_is_poisonous_is_looked_at_before_later_chunks(ledger: Ledger) -> None:
    await ledger.start(16, 8)
    claim = await ledger.claim()
    await ledger.chunks.split(claim, "it fails", claim.keys[:3])
    order = [len((await ledger.claim()).keys) for _ in range(3)]
    assert order == [1, 2, 8]


async def test_a_refresh_goes_before_a_bulk_run(ledger: Ledger) -> None:
    from trivium.store.results import Refresh, ResultRepository
    from trivium.store.runs import NewRun

    await ledger.start(4, 2)
    await ResultRepository(ledger.database).ask([Refresh("triage", "stored", "K-00003", "age")])
    new = NewRun("triage", "stored", "v1", {"kind": "refresh"}, trigger="refresh", force=True)
    assert await ledger.runs.start_refresh(new, 10) == 1
    assert (await ledger.claim()).keys == ["K-00003"]


async def test_phases_follow_each_other_and_the_last_chunk_ends_the_run(ledger: Ledger) -> None:
    run_id = await ledger.start(4, 2, phase=EMBED, selects=True)
    first, second = await ledger.claim_all()
    assert {first.phase, second.phase} == {EMBED}
    await ledger.finish(first, Batch())
    assert (await ledger.progress(run_id)).phase == EMBED
    await ledger.finish(second, Batch())
    chosen = await ledger.claim()
    assert chosen.phase == SELECT
    following = [(COMPUTE, keys_of(4)[:3]), (COMPUTE, keys_of(4)[3:])]
    assert await ledger.chunks.checkpoint(chosen, Batch(), ends=True, following=following)
    for claim in await ledger.claim_all():
        assert claim.phase == COMPUTE
        await ledger.finish(claim)
    run = await ledger.progress(run_id)
    assert (run.state, run.total, run.computed, run.steps) == ("done", 4, 4, 8)


async def test_of_two_that_finish_the_last_chunks_at_once_one_ends_the_run(ledger: Ledger) -> None:
    for number in range(5):
        run_id = await ledger.start(2, 1, variant=f"v-{number}")
        claims = await ledger.claim_all()
        await asyncio.gather(*(ledger.finish(claim) for claim in claims))
        assert (await ledger.progress(run_id)).state == "done"


async def test_failures_end_a_run_with_errors_and_abstentions_do_not(
    ledger: Ledger,
) -> None:
    run_id = await ledger.start(2, 1)
    first, second = await ledger.claim_all()
    await ledger.finish(first)
    await ledger.finish(second, dead_of(second.keys, "low_confidence", abstained=True))
    run = await ledger.progress(run_id)
    assert (run.state, run.computed, run.abstained, run.failed) == ("done", 1, 1, 0)
    run_id = await ledger.start(1, 1, variant="other")
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    assert (await ledger.progress(run_id)).state == "done_with_errors"


async def test_a_run_stops_itself_above_its_error_ratio_but_not_for_a_few(ledger: Ledger) -> None:
    run_id = await ledger.start(60, 1, max_error_ratio=0.5)
    claims = await ledger.claim_all()
    for claim in claims[:19]:
        await ledger.finish(claim, dead_of(claim.keys))
    assert (await ledger.progress(run_id)).state == "running"
    await ledger.finish(claims[19], dead_of(claims[19].keys))
    run = await ledger.progress(run_id)
    assert (run.state, run.failed) == ("failed", 20)
    assert run.error and "max_error_ratio" in run.error
    assert not await ledger.finish(claims[20]), "its other chunks were cancelled"


async def test_a_run_stops_itself_beyond_its_cost(ledger: Ledger) -> None:
    run_id = await ledger.start(3, 1, max_cost_usd=1.0)
    claims = await ledger.claim_all()
    dear = Batch(results=[Result(item_of(claims[0].keys[0]), {"label": "x"}, cost_usd=1.5)])
    await ledger.finish(claims[0], dear)
    run = await ledger.progress(run_id)
    assert (run.state, run.cost_usd) == ("failed", 1.5)
    assert run.error and "max_cost_usd" in run.error


async def test_what_waits_is_not_rung_before_its_time(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    claim = await ledger.claim()
    await ledger.chunks.hand_back(claim, after_s=0.3)
    assert await ledger.chunks.to_ring(10) == []
    assert await ledger.chunks.claim(claim.chunk_id, 60) is None
    await asyncio.sleep(0.35)
    assert (await ledger.claim()).chunk_id == claim.chunk_id


async def test_of_two_results_for_an_entity_that_of_the_newer_input_stays(ledger: Ledger) -> None:
    await ledger.start(1, 1, variant="stored")
    older = await ledger.claim(lease_s=60)
    await asyncio.sleep(0.05)
    newer = replace(older, taken_at=older.taken_at + 1)
    assert await ledger.chunks.checkpoint(newer, results_of(older.keys, "new"), ends=False)
    assert await ledger.chunks.checkpoint(older, results_of(older.keys, "old"), ends=True)
    assert await _labels(ledger) == {"K-00000": "new"}


async def test_only_what_is_new_changed_or_of_another_version_is_due(ledger: Ledger) -> None:
    await ledger.start(4, 4)
    claim = await ledger.claim()
    assert len((await ledger.chunks.find(claim, ARCHIVE, claim.keys, force=False)).items) == 4
    await ledger.chunks.checkpoint(claim, results_of(claim.keys), ends=False)
    found = await ledger.chunks.find(claim, ARCHIVE, [*claim.keys, "nobody"], force=False)
    assert (found.items, found.unchanged, found.gone) == ([], 4, ["nobody"])
    await ledger.archive.put(ARCHIVE, {"K-00002": {"text": "changed"}})
    found = await ledger.chunks.find(claim, ARCHIVE, claim.keys, force=False)
    assert [(item.entity_key, item.record) for item in found.items] == [("K-00002", {"text": "changed"})]
    other = replace(claim, variant_version="v2")
    assert len((await ledger.chunks.find(other, ARCHIVE, claim.keys, force=False)).items) == 4
    assert len((await ledger.chunks.find(claim, ARCHIVE, claim.keys, force=True)).items) == 4


async def test_results_of_entities_that_are_gone_are_dropped(ledger: Ledger) -> None:
    run_id = await ledger.start(2, 2)
    claim = await ledger.claim()
    await ledger.chunks.checkpoint(claim, results_of(claim.keys), ends=False)
    assert await ledger.finish(claim, Batch(gone=["K-00000"], unchanged=1))
    assert set(await _labels(ledger)) == {"K-00001"}
    assert (await ledger.progress(run_id)).gone == 1


async def test_entities_that_are_left_get_a_chunk_of_their_own(ledger: Ledger) -> None:
    run_id = await ledger.start(3, 3)
    claim = await ledger.claim()
    batch = results_of(claim.keys[:1])
    batch.left = claim.keys[1:]
    assert await ledger.finish(claim, batch)
    rest = await ledger.claim()
    assert (rest.keys, rest.cursor) == (claim.keys[1:], {"one_by_one": True})
    await ledger.finish(rest)
    run = await ledger.progress(run_id)
    assert (run.state, run.total, run.computed) == ("done", 3, 3)


async def test_a_chunk_keeps_what_a_late_cancel_does_not_let_it_write(ledger: Ledger) -> None:
    run_id = await ledger.start(2, 1)
    first, second = await ledger.claim_all()
    await ledger.finish(first)
    assert await ledger.runs.cancel(run_id)
    assert not await ledger.finish(second)
    assert not await ledger.chunks.renew(second, 60)
    assert set(await _labels(ledger)) == set(first.keys)
    assert await ledger.chunks.to_ring(10) == []
    states = select(precompute_chunk.c.state).where(precompute_chunk.c.phase == COMPUTE)
    async with ledger.database.transaction() as connection:
        assert sorted((await connection.execute(states)).scalars()) == ["cancelled", "done"]
    assert record_of("a") == {"text": "text of a"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_run_that_is_cancelled_while_its_chunks_are_written_waits_for_nobody(ledger: Ledger) -> None:
    for number in range(8):
        run_id = await ledger.start(24, 2, variant=f"v-{number}")
        claims = await ledger.claim_all()
        writing = [asyncio.create_task(ledger.finish(claim)) for claim in claims]
        await asyncio.sleep(0.001 * number)
        await ledger.runs.cancel(run_id)
        written = await asyncio.gather(*writing)
        run = await ledger.progress(run_id)
        assert run.state == ("done" if all(written) and run.computed == 24 else "cancelled")
        for claim in claims:
            assert not await ledger.chunks.renew(claim, 60)


@pytest.mark.parametrize("ends", [True, False])
async def test_an_error_on_the_way_leaves_neither_results_nor_counts_nor_place(
    ledger: Ledger, ends: bool
) -> None:
    run_id = await ledger.start(4, 4)
    claim = await ledger.claim()
    assert await ledger.chunks.checkpoint(claim, results_of(claim.keys[:1]), ends=False, cursor={"at": 1})
    broken = results_of(claim.keys[1:2], "torn")
    broken.gone = ["K-00000"]
    broken.dead = [replace(dead_of(claim.keys[2:3]).dead[0], detail="\ud800")]  # no database takes it
    with pytest.raises(UnicodeEncodeError):
        await ledger.chunks.checkpoint(claim, broken, ends=ends, cursor={"at": 3})
    assert await _labels(ledger) == {"K-00000": "x"}
    run = await ledger.progress(run_id)
    assert (run.state, run.computed, run.failed, run.gone) == ("running", 1, 0, 0)
    await ledger.chunks.hand_back(claim)
    assert (await ledger.claim()).cursor == {"at": 1}


async def test_a_late_note_is_not_taken(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    late = await ledger.claim(lease_s=0.01)
    await asyncio.sleep(0.05)
    new = await ledger.claim()
    assert not await ledger.chunks.note(late, {"batch": {"id": "late"}})
    assert await ledger.chunks.note(new, {"batch": {"id": "new"}})
    await ledger.chunks.hand_back(new)
    assert (await ledger.claim()).cursor == {"batch": {"id": "new"}}


async def test_a_lease_that_is_renewed_is_not_taken_when_it_would_have_ended(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    claim = await ledger.claim(lease_s=0.2)
    assert await ledger.chunks.renew(claim, 60)
    await asyncio.sleep(0.3)
    assert await ledger.chunks.to_ring(10) == []
    assert await ledger.finish(claim)


async def test_a_lease_that_ended_still_holds_until_another_takes_the_chunk(ledger: Ledger) -> None:
    run_id = await ledger.start(1, 1)
    claim = await ledger.claim(lease_s=0.01)
    await asyncio.sleep(0.05)
    assert await ledger.finish(claim)
    assert (await ledger.progress(run_id)).state == "done"


async def test_an_expired_chunk_is_taken_by_one_of_many(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    claim = await ledger.claim(lease_s=0.01)
    await asyncio.sleep(0.05)
    taken = await asyncio.gather(*(ledger.chunks.claim(claim.chunk_id, 60) for _ in range(8)))
    assert [one.token for one in taken if one] == [2]


async def test_what_is_not_its_turn_yet_is_not_taken(ledger: Ledger) -> None:
    run_id = await ledger.start(2, 2, phase=EMBED, selects=True)
    queued = await ledger.start(2, 2, overlap="queue")
    chunk = precompute_chunk.c
    waiting = select(chunk.id).where((chunk.phase == SELECT) | (chunk.run_id == queued))
    async with ledger.database.transaction() as connection:
        ids: list[str] = list((await connection.execute(waiting)).scalars())
    assert len(ids) == 3
    assert [await ledger.chunks.claim(one, 60) for one in ids] == [None] * 3
    assert [(await ledger.claim()).run_id, await ledger.chunks.to_ring(9)] == [run_id, []]


async def test_a_chunk_that_is_unknown_or_done_is_not_taken(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    claim = await ledger.claim()
    await ledger.finish(claim)
    assert await ledger.chunks.claim(claim.chunk_id, 60) is None
    assert await ledger.chunks.claim("nobody", 60) is None


async def test_chunks_that_are_not_done_are_counted_of_running_runs_alone(ledger: Ledger) -> None:
    await ledger.start(3, 1)
    await ledger.start(2, 1, overlap="queue")
    cancelled = await ledger.start(2, 1, variant="other")
    await ledger.runs.cancel(cancelled)
    await ledger.finish(await ledger.claim())
    await ledger.claim()
    assert await ledger.chunks.pending() == 2


async def test_what_is_bisected_to_the_end_leaves_the_poison_alone(ledger: Ledger) -> None:
    run_id = await ledger.start(16, 16)
    poison = "K-00011"
    async with asyncio.timeout(20):
        while not (await ledger.progress(run_id)).ended:
            claim = await ledger.claim()
            if poison not in claim.keys:
                await ledger.finish(claim)
            elif len(claim.keys) > 1:
                await ledger.chunks.split(claim, "it fails", claim.keys)
            else:
                await ledger.finish(claim, dead_of(claim.keys))
    run = await ledger.progress(run_id)
    assert (run.state, run.total, run.computed, run.failed) == ("done_with_errors", 16, 15, 1)
    assert run.chunks["split"] == 4
    assert set(await _labels(ledger)) == set(keys_of(16)) - {poison}


async def test_halves_are_tried_as_their_whole_was(ledger: Ledger) -> None:
    await ledger.start(4, 4)
    claim = await ledger.claim()
    await ledger.finish(claim, Batch(left=claim.keys))
    alone = await ledger.claim()
    assert alone.cursor == {"one_by_one": True}
    await ledger.chunks.split(alone, "it fails", alone.keys)
    assert [half.cursor for half in await ledger.claim_all()] == [{"one_by_one": True}] * 2


async def test_an_error_with_which_a_chunk_is_handed_back_counts_as_a_failure(ledger: Ledger) -> None:
    await ledger.start(1, 1)
    for failures in range(3):
        claim = await ledger.claim()
        assert (claim.failures, claim.attempts) == (failures, 1)
        await ledger.chunks.hand_back(claim, error="it fails")


async def test_abstentions_are_no_reason_to_stop(ledger: Ledger) -> None:
    run_id = await ledger.start(60, 30, max_error_ratio=0.1)
    first, second = await ledger.claim_all()
    await ledger.finish(first, dead_of(first.keys, "low_confidence", abstained=True))
    assert (await ledger.progress(run_id)).state == "running"
    await ledger.finish(second)
    run = await ledger.progress(run_id)
    assert (run.state, run.abstained, run.computed) == ("done", 30, 30)


async def test_the_error_ratio_is_one_of_all_that_was_tried(ledger: Ledger) -> None:
    run_id = await ledger.start(200, 100, max_error_ratio=0.2)
    first, second = await ledger.claim_all()
    batch = results_of(first.keys[:50])
    batch.unchanged, batch.dead = 25, dead_of(first.keys[75:]).dead
    await ledger.chunks.checkpoint(first, Batch(unchanged=50), ends=False)
    await ledger.chunks.checkpoint(first, batch, ends=False)  # 25 of 150
    assert (await ledger.progress(run_id)).state == "running"
    await ledger.chunks.checkpoint(second, dead_of(second.keys[:15]), ends=False)  # 40 of 165
    assert (await ledger.progress(run_id)).state == "failed"


async def test_what_an_entity_that_died_has_cost_counts_too(ledger: Ledger) -> None:
    run_id = await ledger.start(2, 1, max_cost_usd=1.0)
    claim = await ledger.claim()
    dead = [replace(one, cost_usd=0.9) for one in dead_of(claim.keys).dead]
    await ledger.finish(claim, Batch(dead=dead, spent_usd=0.2))
    run = await ledger.progress(run_id)
    assert run.state == "failed"
    assert run.cost_usd == pytest.approx(1.1)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_vendors_batch_is_not_forgotten_if_it_was_noted_while_its_run_was_cancelled(
    ledger: Ledger,
) -> None:
    run_id = await ledger.start(1, 1)
    claim = await ledger.claim()
    noted = {"batch": {"vendor": "openai", "id": "b-1"}}
    async with ledger.database.transaction() as connection:
        own = update(precompute_chunk).where(precompute_chunk.c.id == claim.chunk_id)
        await connection.execute(own.values(cursor=noted))
        await ledger.runs.cancel(run_id)
    assert not await ledger.chunks.renew(claim, 60)
    assert await ledger.chunks.abandoned(0) == [(claim.chunk_id, noted["batch"])]
    await ledger.chunks.forget_place(claim.chunk_id)
    assert await ledger.chunks.abandoned(0) == []


async def test_embeddings_are_replaced_by_newer_ones_of_the_same_model(ledger: Ledger) -> None:
    await ledger.start(1, 1, phase=EMBED)
    claim = await ledger.claim()
    for vector, model in ((b"old", "m"), (b"new", "m"), (b"other", "n")):
        made = Batch(embeddings=[Embedding("K-00000", "h", vector)])
        assert await ledger.chunks.checkpoint(claim, made, ends=False, archive=ARCHIVE, model=model)
    assert await ledger.archive.embeddings(ARCHIVE, "m") == [("K-00000", "h", claim.run_id, b"new")]
    assert await ledger.archive.embeddings(ARCHIVE, "n") == [("K-00000", "h", claim.run_id, b"other")]
