"""What is watched of the database: runs and how long they have been silent, and what months cost."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update

from support.ledger import Ledger
from trivium.domain.inference import Attempt, ServedBy
from trivium.store import limits
from trivium.store.engine import Database
from trivium.store.figures import DAY_S, FigureRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.journal import Journal
from trivium.store.limits import Bucket, Limits
from trivium.store.redis_guard import RedisGuard
from trivium.store.tables import precompute_chunk, precompute_run

NOW = datetime(2026, 12, 21, tzinfo=UTC).timestamp()  # eleven of thirty-one days are left


async def _set(database: Database, table: Any, run_id: str, **values: Any) -> None:
    own = table.c.id if table is precompute_run else table.c.run_id
    async with database.transaction() as connection:
        await connection.execute(update(table).where(own == run_id).values(**values))


async def test_runs_are_counted_by_state_and_those_that_ended_for_a_day(database: Database) -> None:
    ledger, figures = Ledger(database), FigureRepository(database)
    failed = await ledger.start(1, 1, variant="a")
    await ledger.runs.fail(failed, "because")
    old = await ledger.start(1, 1, variant="a")
    await ledger.runs.cancel(old)
    await _set(database, precompute_run, old, finished_at=time.time() - DAY_S - 60)
    partly = await ledger.start(1, 1, variant="a")
    await _set(database, precompute_run, partly, state="done_with_errors", finished_at=time.time())
    refresh = await ledger.start(1, 1, variant="a")
    await _set(database, precompute_run, refresh, state="done", priority=0, finished_at=time.time())
    await ledger.start(1, 1, variant="a")
    await ledger.start(1, 1, variant="a", overlap="queue")
    found = await figures.runs()
    assert found.counts == {("triage", state): 1 for state in ("failed", "done", "running", "queued")}


async def test_a_run_is_silent_since_its_last_chunk_ended_but_not_while_one_is_put_off(
    database: Database,
) -> None:
    ledger, figures = Ledger(database), FigureRepository(database)
    assert (await figures.runs()).silent_s == {}
    run_id = await ledger.start(4, 2)
    await _set(database, precompute_run, run_id, started_at=time.time() - 900)
    await _set(database, precompute_chunk, run_id, finished_at=None)
    assert 899 < (await figures.runs()).silent_s["triage"] < 960, "since it began"

    claim, other = await ledger.claim_all()
    assert await ledger.finish(claim)
    assert (await figures.runs()).silent_s["triage"] < 60, "since a chunk ended"
    await _set(database, precompute_chunk, run_id, finished_at=time.time() - 500)
    assert 499 < (await figures.runs()).silent_s["triage"] < 560

    assert await ledger.chunks.hand_back(other, after_s=60)
    assert (await figures.runs()).silent_s["triage"] == 0, "it waits, and says until when"
    await _set(database, precompute_chunk, run_id, not_before=time.time() - 300)
    assert 299 < (await figures.runs()).silent_s["triage"] < 360, "nobody has come back to it"


async def test_the_silence_of_a_feature_is_that_of_its_most_silent_run(database: Database) -> None:
    ledger, figures = Ledger(database), FigureRepository(database)
    for variant, ago in (("a", 100.0), ("b", 700.0), ("c", 200.0)):
        run_id = await ledger.start(1, 1, variant=variant)
        await _set(database, precompute_run, run_id, started_at=time.time() - ago)
        await _set(database, precompute_chunk, run_id, finished_at=None)
    assert 699 < (await figures.runs()).silent_s["triage"] < 760


async def test_a_month_is_what_it_cost_and_the_rest_at_the_pace_of_the_last_days(
    database: Database, make_inference: Any
) -> None:
    by = ServedBy("llm-v1", "api", "llm-v1", "v1")

    async def spend(feature: str, days_ago: float, usd: float | None) -> None:
        tried = [Attempt(by, "a/x", "ok", 5.0, cost_usd=usd)]
        row, attempts = rows_of(
            make_inference(feature=feature, attempts=tried, created_at=NOW - days_ago * DAY_S)
        )
        await InferenceRepository(database).add([row], attempts)

    for days_ago, usd in ((25, 500.0), (19, 3.0), (6.9, 7.0), (1, 0.5), (0.5, None)):
        await spend("long", days_ago, usd)
    await spend("new", 2, 4.0)
    await spend("newest", 0.25, 1.0)
    await spend("quiet", 15, 2.0)
    await spend("other", 1, 9.0)
    names = ["long", "new", "newest", "quiet", "never"]
    found = await FigureRepository(database).month_costs(names, NOW)
    assert found == {
        "long": pytest.approx(10.5 + 7.5 / 6.9 * 11, rel=1e-3),
        "new": pytest.approx(4 + 4 / 2 * 11, rel=1e-3),
        "newest": pytest.approx(1 + 1 * 11, rel=1e-3),
        "quiet": 2.0,
    }


async def test_at_a_months_begin_the_pace_is_that_of_the_month_before(
    database: Database, make_inference: Any
) -> None:
    begin = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    tried = [Attempt(ServedBy("llm-v1", "api", "llm-v1", "v1"), "a/x", "ok", 5.0, cost_usd=2.0)]
    for days_ago in range(1, 8):
        row, attempts = rows_of(make_inference(attempts=tried, created_at=begin - days_ago * DAY_S + 60))
        await InferenceRepository(database).add([row], attempts)
    found = await FigureRepository(database).month_costs(["reply"], begin + 60)
    assert found["reply"] == pytest.approx(62, rel=0.01)


def test_how_full_the_journal_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=1_000)
    assert journal.fill == 0
    while journal.append({"number": 1}):
        pass
    assert 0.9 < journal.fill <= 1
    (segment,) = journal.closed_segments()
    assert 0.9 < journal.fill <= 1
    journal.forget(segment)
    assert journal.fill == 0
    journal.close()


async def test_of_a_new_month_no_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = RedisGuard("redis://127.0.0.1:9")
    made = Limits(guard)
    bucket = Bucket("feature:turns", 20.0, "usd", "month", "feature")
    made._alert(bucket, [b"19"])
    labels = {"bucket": "feature:turns"}
    made._turn_over(bucket)
    assert REGISTRY.get_sample_value("trivium_budget_used_ratio", labels) == 0.95
    assert REGISTRY.get_sample_value("trivium_budget_limit_usd", labels) == 20

    class Later(datetime):
        @classmethod
        def now(cls, _: Any = None) -> "Later":
            return cls(2099, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(limits, "datetime", Later)
    made._turn_over(bucket)
    assert REGISTRY.get_sample_value("trivium_budget_used_ratio", labels) == 0
    await guard.close()
