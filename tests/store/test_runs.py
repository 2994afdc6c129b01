import asyncio
import time

import pytest
from sqlalchemy import select

from support.ledger import Ledger, dead_of, keys_of
from trivium.domain.precompute import COMPUTE, EMBED, SELECT, Batch
from trivium.errors import Conflict, NotFound
from trivium.store.engine import Database
from trivium.store.results import Refresh, ResultRepository
from trivium.store.runs import NewRun
from trivium.store.tables import dead_item, precompute_chunk, precompute_run, refresh_request


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def _new(variant: str = "stored", **options: object) -> NewRun:
    return NewRun("triage", variant, "v1", {"kind": "archive"}, **options)  # type: ignore[arg-type]


async def test_one_idempotency_key_is_one_run_however_many_ask_at_once(ledger: Ledger) -> None:
    new = _new(idempotency_key="nightly")
    started = await asyncio.gather(*(ledger.runs.start(new) for _ in range(10)))
    assert len({run_id for run_id, _ in started}) == 1
    assert sorted(created for _, created in started) == [False] * 9 + [True]
    assert await ledger.count(precompute_run) == 1


async def test_a_second_run_of_a_variant_is_refused_and_names_the_first(ledger: Ledger) -> None:
    first, _ = await ledger.runs.start(_new())
    with pytest.raises(Conflict, match=first):
        await ledger.runs.start(_new())
    await ledger.runs.start(_new("other"))


async def test_queued_runs_begin_one_after_the_other(ledger: Ledger) -> None:
    first, _ = await ledger.runs.start(_new())
    second, _ = await ledger.runs.start(_new(), overlap="queue")
    third, _ = await ledger.runs.start(_new(), overlap="queue")
    assert await ledger.runs.promote() == 0
    states = []
    for run_id in (first, second, third):
        await ledger.runs.cancel(run_id)
        await ledger.runs.promote()
        states.append([(await ledger.progress(one)).state for one in (first, second, third)])
    assert states[0] == ["cancelled", "running", "queued"]
    assert states[1] == ["cancelled", "cancelled", "running"]


async def test_a_queued_run_whose_body_is_imported_goes_on_when_its_turn_comes(ledger: Ledger) -> None:
    first, _ = await ledger.runs.start(_new())
    queued = await ledger.start(2, 2, overlap="queue")
    now = await ledger.progress(queued)
    assert (now.state, now.phase) == ("queued", COMPUTE)
    await ledger.runs.cancel(first)
    await ledger.runs.promote()
    await ledger.finish(await ledger.claim())
    assert (await ledger.progress(queued)).state == "done"


async def test_a_run_over_nothing_is_done_at_once(ledger: Ledger) -> None:
    assert (await ledger.progress(await ledger.start(0, 5))).state == "done"


async def test_what_failed_is_replayed_once_and_only_when_the_run_has_ended(ledger: Ledger) -> None:
    run_id = await ledger.start(3, 1)
    with pytest.raises(Conflict, match="running"):
        await ledger.runs.replay(run_id)
    for claim in await ledger.claim_all():
        await ledger.finish(claim, dead_of(claim.keys) if claim.keys[0] != "K-00001" else None)
    replay = await ledger.runs.replay(run_id)
    again = await ledger.claim()
    assert sorted(again.keys) == ["K-00000", "K-00002"]
    assert again.force
    await ledger.finish(again)
    assert (await ledger.progress(replay)).state == "done"
    with pytest.raises(Conflict, match="left to replay"):
        await ledger.runs.replay(run_id)
    with pytest.raises(NotFound):
        await ledger.runs.replay("none")
    items = await ledger.runs.dead_items(run_id)
    assert [(item["entity_key"], item["replayed_in"]) for item in items] == [
        ("K-00000", replay),
        ("K-00002", replay),
    ]


async def test_a_replay_of_neighbours_embeds_first(ledger: Ledger) -> None:
    run_id = await ledger.start(1, 1, phase=EMBED, selects=True)
    claim = await ledger.claim()
    await ledger.finish(claim, dead_of(claim.keys))
    await ledger.runs.cancel(run_id)
    replay = await ledger.runs.replay(run_id)
    assert (await ledger.progress(replay)).phase == EMBED
    async with ledger.database.transaction() as connection:
        source = select(precompute_run.c.source).where(precompute_run.c.id == replay)
        assert (await connection.execute(source)).scalar_one()["keys"] == ["K-00000"]


async def test_dead_items_come_in_pages(ledger: Ledger) -> None:
    run_id = await ledger.start(5, 5)
    claim = await ledger.claim()
    await ledger.finish(claim, dead_of(claim.keys))
    first = await ledger.runs.dead_items(run_id, limit=3)
    rest = await ledger.runs.dead_items(run_id, after=first[-1]["entity_key"], limit=3)
    assert [item["entity_key"] for item in first + rest] == keys_of(5)


async def test_a_run_that_ended_cannot_be_cancelled_and_an_unknown_one_is_told(ledger: Ledger) -> None:
    run_id = await ledger.start(1, 1)
    await ledger.finish(await ledger.claim())
    assert not await ledger.runs.cancel(run_id)
    assert (await ledger.progress(run_id)).state == "done"
    with pytest.raises(NotFound):
        await ledger.runs.cancel("none")


async def test_a_run_whose_import_failed_frees_its_key(ledger: Ledger) -> None:
    new = _new(idempotency_key="k")
    first, _ = await ledger.runs.start(new)
    await ledger.runs.fail(first, "cut short", free_key=True)
    second, created = await ledger.runs.start(new)
    assert created
    assert second != first
    assert (await ledger.progress(first)).error == "cut short"


async def test_progress_counts_entities_and_tells_rate_and_time_left(ledger: Ledger) -> None:
    run_id = await ledger.start(10, 5)
    await ledger.finish(await ledger.claim())
    run = await ledger.progress(run_id)
    assert (run.total, run.computed, run.steps_done, run.ended) == (10, 5, 5, False)
    assert run.rate and run.eta_s
    assert run.eta_s == pytest.approx(5 / run.rate)
    assert run.chunks == {"done": 2, "pending": 1}
    await ledger.finish(await ledger.claim())
    ended = await ledger.progress(run_id)
    assert ended.ended and ended.eta_s is None and ended.rate


async def test_the_latest_run_of_a_version_is_no_refresh(ledger: Ledger) -> None:
    assert await ledger.runs.latest("triage", "stored", "v1") is None
    run_id = await ledger.start(1, 1)
    await ledger.finish(await ledger.claim())
    await ResultRepository(ledger.database).ask([Refresh("triage", "stored", "K-00000", "age")])
    await ledger.runs.start_refresh(_new(trigger="refresh"), 10)
    latest = await ledger.runs.latest("triage", "stored", "v1")
    assert latest and latest.run_id == run_id
    assert await ledger.runs.newest("triage", 10) == [run_id]


async def test_each_wish_is_taken_once_by_many_and_goes_when_its_run_has_ended(
    ledger: Ledger,
) -> None:
    results = ResultRepository(ledger.database)
    wishes = [Refresh("triage", "stored", key, "input") for key in keys_of(30)]
    await results.ask(wishes)
    await results.ask(wishes)
    assert await ledger.count(refresh_request) == 30
    new = _new(trigger="refresh", force=True)
    taken = await asyncio.gather(*(ledger.runs.start_refresh(new, 10) for _ in range(6)))
    while more := await ledger.runs.start_refresh(new, 10):
        taken.append(more)
    assert sum(taken) == 30
    claims = await ledger.claim_all()
    assert sorted(key for claim in claims for key in claim.keys) == keys_of(30)
    await results.ask(wishes)
    assert await ledger.count(refresh_request) == 30, "what is being computed is not wished again"
    for claim in claims:
        await ledger.finish(claim)
    assert await ledger.count(refresh_request) == 0


async def test_old_runs_are_forgotten_a_portion_at_a_time(ledger: Ledger) -> None:
    old = await ledger.start(4, 2)
    claims = await ledger.claim_all()
    await ledger.finish(claims[0], dead_of(claims[0].keys))
    await ledger.finish(claims[1])
    kept = await ledger.start(2, 2, variant="other")
    rounds = 0
    while await ledger.runs.prune(time.time() + 1):
        rounds += 1
    assert rounds == 3, "chunks, dead items, runs"
    with pytest.raises(NotFound):
        await ledger.progress(old)
    assert not (await ledger.progress(kept)).ended
    assert await ledger.count(dead_item) == 0
    assert await ledger.count(precompute_chunk) == 2


async def test_of_many_that_start_at_once_one_runs(ledger: Ledger) -> None:
    started = await asyncio.gather(*(ledger.runs.start(_new()) for _ in range(10)), return_exceptions=True)
    (won,) = [one for one in started if not isinstance(one, BaseException)]
    refused = [one for one in started if isinstance(one, Conflict)]
    assert len(refused) == 9 and all(won[0] in str(one.detail) for one in refused)
    assert await ledger.count(precompute_run) == 1
    assert await ledger.runs.under_way("triage", "stored") == won[0]


async def test_an_idempotency_key_is_the_features_own_and_answers_also_when_its_run_has_ended(
    ledger: Ledger,
) -> None:
    first, _ = await ledger.runs.start(_new(idempotency_key="k"))
    await ledger.runs.cancel(first)
    assert await ledger.runs.start(_new(idempotency_key="k")) == (first, False)
    other = NewRun("other", "stored", "v1", {"kind": "archive"}, idempotency_key="k")
    assert (await ledger.runs.start(other))[1]
    assert await ledger.runs.has_key("triage", "k")
    assert not await ledger.runs.has_key("triage", "j")


async def test_a_run_that_is_asked_for_again_is_answered_before_it_could_be_refused(ledger: Ledger) -> None:
    first, _ = await ledger.runs.start(_new(idempotency_key="k"))
    assert await ledger.runs.start(_new(idempotency_key="k")) == (first, False)
    with pytest.raises(Conflict):
        await ledger.runs.start(_new(idempotency_key="j"))


async def test_many_that_promote_at_once_let_one_queued_run_begin(ledger: Ledger) -> None:
    first, _ = await ledger.runs.start(_new())
    queued = [(await ledger.runs.start(_new(), overlap="queue"))[0] for _ in range(3)]
    await ledger.runs.cancel(first)
    await asyncio.gather(*(ledger.runs.promote() for _ in range(6)))
    assert [(await ledger.progress(one)).state for one in queued] == ["running", "queued", "queued"]


async def test_a_queued_run_of_one_variant_does_not_wait_for_another(ledger: Ledger) -> None:
    await ledger.runs.start(_new())
    await ledger.runs.start(_new(), overlap="queue")
    first, _ = await ledger.runs.start(_new("other"))
    second, _ = await ledger.runs.start(_new("other"), overlap="queue")
    await ledger.runs.cancel(first)
    assert await ledger.runs.promote() == 1
    assert (await ledger.progress(second)).state == "running"


async def test_a_queued_run_has_neither_begun_nor_a_rate(ledger: Ledger) -> None:
    await ledger.runs.start(_new())
    queued, created = await ledger.runs.start(_new(), overlap="queue")
    run = await ledger.progress(queued)
    assert created
    assert (run.state, run.started_at, run.finished_at, run.rate, run.eta_s) == ("queued", *[None] * 4)
    assert await ledger.runs.cancel(queued), "it can be cancelled all the same"
    assert (await ledger.progress(queued)).state == "cancelled"


async def test_a_refresh_does_not_stand_in_the_way_of_a_run_nor_a_run_in_its(ledger: Ledger) -> None:
    results = ResultRepository(ledger.database)
    await results.ask([Refresh("triage", "stored", "K-00000", "age")])
    assert await ledger.runs.start_refresh(_new(trigger="refresh"), 10) == 1
    assert (await ledger.progress(await ledger.start(1, 1))).state == "running"
    await results.ask([Refresh("triage", "stored", "K-00001", "age")])
    assert await ledger.runs.start_refresh(_new(trigger="refresh"), 10) == 1


async def test_wishes_of_a_run_that_is_cancelled_can_be_made_again(ledger: Ledger) -> None:
    results = ResultRepository(ledger.database)
    wish = Refresh("triage", "stored", "K-00000", "age")
    await results.ask([wish, Refresh("triage", "other", "K-00000", "age")])
    await ledger.runs.start_refresh(_new(trigger="refresh"), 10)
    await ledger.runs.cancel((await ledger.claim()).run_id)
    assert await results.wanted() == [("triage", "other")]
    await results.ask([wish])
    assert sorted(await results.wanted()) == [("triage", "other"), ("triage", "stored")]


async def test_a_refresh_over_nothing_is_no_run(ledger: Ledger) -> None:
    assert await ledger.runs.start_refresh(_new(trigger="refresh"), 10) == 0
    assert await ledger.count(precompute_run) == 0


async def test_a_refresh_of_neighbours_embeds_and_selects_and_knows_what_was_asked(ledger: Ledger) -> None:
    await ResultRepository(ledger.database).ask([Refresh("triage", "stored", "K-00000", "age")])
    assert await ledger.runs.start_refresh(_new(trigger="refresh", selects=True), 10) == 1
    claim = await ledger.claim()
    assert (claim.phase, claim.keys, claim.source["keys"]) == (EMBED, ["K-00000"], ["K-00000"])
    await ledger.finish(claim, Batch())
    assert (await ledger.claim()).phase == SELECT


async def test_what_fails_ends_a_run_once_and_cancels_what_is_left(ledger: Ledger) -> None:
    run_id = await ledger.start(3, 1)
    await ledger.finish(await ledger.claim())
    held = await ledger.claim()
    await ledger.runs.fail(run_id, "no such model")
    await ledger.runs.fail(run_id, "another reason")
    run = await ledger.progress(run_id)
    assert (run.state, run.error, run.computed, run.total) == ("failed", "no such model", 1, 3)
    assert run.chunks == {"done": 2, "cancelled": 2}
    assert not await ledger.finish(held)
    assert (await ledger.progress(run_id)).computed == 1


async def test_a_replay_is_refused_while_another_run_is_under_way_and_loses_nothing(ledger: Ledger) -> None:
    run_id = await ledger.start(1, 1)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    other = await ledger.start(1, 1)
    with pytest.raises(Conflict, match=other):
        await ledger.runs.replay(run_id)
    await ledger.runs.cancel(other)
    assert (await ledger.progress(await ledger.runs.replay(run_id))).total == 1


async def test_many_that_replay_at_once_make_one_run(ledger: Ledger) -> None:
    run_id = await ledger.start(2, 2)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    made = await asyncio.gather(*(ledger.runs.replay(run_id) for _ in range(6)), return_exceptions=True)
    assert len([one for one in made if isinstance(one, str)]) == 1
    assert len([one for one in made if isinstance(one, Conflict)]) == 5


async def test_a_replay_over_many_is_cut_into_chunks_and_can_be_replayed_itself(ledger: Ledger) -> None:
    run_id = await ledger.start(600, 600, max_error_ratio=1.0)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    replay = await ledger.runs.replay(run_id, "key-1")
    claims = await ledger.claim_all()
    assert [len(one.keys) for one in claims] == [256, 256, 88]
    assert [key for one in claims for key in one.keys] == keys_of(600)
    for one in claims:
        await ledger.finish(one, dead_of(one.keys))
    assert (await ledger.progress(replay)).state == "done_with_errors"
    again = await ledger.runs.replay(replay)
    assert (await ledger.progress(again)).total == 600


async def test_old_runs_go_a_portion_at_a_time_and_others_stay(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.runs.PRUNE_ROWS", 3)
    for variant in ("a", "b"):
        await ledger.start(5, 1, variant=variant)
        for claim in await ledger.claim_all():
            await ledger.finish(claim, dead_of(claim.keys))
    between = time.time()
    await asyncio.sleep(0.01)
    kept = await ledger.start(2, 2)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    gone = []
    while rows := await ledger.runs.prune(between):
        gone.append(rows)
    assert max(gone) == 3 and sum(gone) == 2 * (6 + 5 + 1)
    assert (await ledger.progress(kept)).state == "done_with_errors"
    assert len(await ledger.runs.dead_items(kept)) == 2
    assert await ledger.count(precompute_chunk) == 2


async def test_a_run_that_is_unknown_is_told(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await ledger.progress("nobody")
    assert await ledger.runs.under_way("triage", "stored") is None
    assert await ledger.runs.newest("triage", 5) == []
    assert await ledger.runs.dead_items("nobody") == []
    await ledger.runs.fail("nobody", "because")
