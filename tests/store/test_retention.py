"""What may go, goes; in portions, and nothing else."""

import time
from typing import Any

from sqlalchemy import func, select

from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, attempt_rows, rows_of
from trivium.store.retention import DAY_S, LEDGER_DAYS, RetentionRepository
from trivium.store.shadows import ShadowRepository
from trivium.store.tables import attempt, feedback, inference, shadow_answer


async def _aged(database: Database, make_inference: Any, days: list[float], **more: Any) -> list[str]:
    made = [make_inference(created_at=time.time() - age * DAY_S, **more) for age in days]
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])
    return [one.id for one in made]


async def _count(database: Database, table: Any) -> int:
    async with database.transaction() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def test_payloads_go_first_and_the_ledger_stays_for_its_time(
    database: Database, make_inference: Any, make_feedback: Any
) -> None:
    young, stripped, dropped = await _aged(database, make_inference, [1, 31, LEDGER_DAYS + 1])
    (other,) = await _aged(database, make_inference, [400], feature="other")
    for about in (young, stripped, dropped):
        await FeedbackRepository(database).add(make_feedback(inference_id=about))
    assert await RetentionRepository(database).forget("reply", 30) == (1, 1)
    rows = InferenceRepository(database)
    kept, bare = await rows.find(young), await rows.find(stripped)
    assert kept
    assert kept["input"]
    assert bare
    assert (bare["input"], bare["output"], bare["cost_usd"]) == (None, None, None)
    assert len(await rows.attempts_of(stripped)) == 2
    assert await rows.find(dropped) is None
    assert await rows.attempts_of(dropped) == []
    assert await rows.find(other)
    assert await _count(database, feedback) == 2
    async with database.transaction() as connection:
        value = select(feedback.c.value).where(feedback.c.inference_id == stripped)
        assert (await connection.execute(value)).scalar_one() is None
    assert await RetentionRepository(database).forget("reply", 30) == (0, 0)


async def test_a_long_retention_keeps_payloads_as_long_as_rows(
    database: Database, make_inference: Any
) -> None:
    young, old = await _aged(database, make_inference, [90, 101])
    assert await RetentionRepository(database).forget("reply", 100) == (0, 1)
    found = await InferenceRepository(database).find(young)
    assert found
    assert found["output"]
    assert await InferenceRepository(database).find(old) is None


async def test_many_go_in_portions_and_what_was_cut_short_goes_on(
    database: Database, make_inference: Any
) -> None:
    await _aged(database, make_inference, [100.0] * 2_500)
    retention = RetentionRepository(database)
    assert await retention._drop("reply", time.time() - 70 * DAY_S, 400) == 400
    assert await _count(database, inference) == 2_100
    assert await retention.forget("reply", 30, portion=1_000) == (0, 2_100)
    assert await _count(database, attempt) == 0


async def test_what_candidates_said_goes_as_payloads_do_and_its_cost_stays_for_its_time(
    database: Database, make_inference: Any
) -> None:
    shadows = ShadowRepository(database)
    for age in (1, 31, LEDGER_DAYS + 1):
        made = make_inference()
        at = time.time() - age * DAY_S
        row = {
            "id": f"s-{age}",
            "inference_id": made.id,
            "feature": "reply",
            "served_variant": "a",
            "served_version": "1",
            "variant": "b",
            "version": "2",
            "outcome": "ok",
            "output": {"label": "x"},
            "agrees": True,
            "confidence": None,
            "latency_ms": 3.0,
            "cost_usd": 0.5,
            "created_at": at,
        }
        await shadows.add([row], attempt_rows(row["id"], "shadow/reply", None, at, made.attempts[:1]))
    retention = RetentionRepository(database)
    assert await retention.forget_shadows("other", 30) == 0
    assert await retention.forget_shadows("reply", 30) == 2  # one output, one whole answer
    async with database.transaction() as connection:
        own = shadow_answer.c
        left = (await connection.execute(select(own.id, own.output, own.cost_usd).order_by(own.id))).all()
    assert [tuple(row) for row in left] == [("s-1", {"label": "x"}, 0.5), ("s-31", None, 0.5)]
    assert await _count(database, attempt) == 2
    assert await retention.forget_shadows("reply", 30) == 0
