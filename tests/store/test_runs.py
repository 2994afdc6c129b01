import asyncio
import time

import pytest
from sqlalchemy import select

from support.ledger import Ledger, dead_of, keys_of
from trivium.domain.precompute import COMPUTE, EMBED
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
