"""What was spent, summed up on both databases."""

import time
from typing import Any

import pytest

from trivium.domain.inference import Arm, Attempt, Inference, ServedBy, Usage
from trivium.store.costs import DAY_S, CostRepository
from trivium.store.engine import Database
from trivium.store.inferences import InferenceRepository, rows_of

NOW = time.time()
TODAY = NOW // DAY_S * DAY_S


def _attempt(target: str, cost: float | None, outcome: str = "ok") -> Attempt:
    by = ServedBy("llm-v1", "api", "llm-v1", "v1")
    return Attempt(by, target, outcome, 5.0, usage=Usage(100, 10, 20, 5, 3), cost_usd=cost)


async def _store(database: Database, *made: Inference) -> None:
    for one in made:
        row, attempts = rows_of(one)
        await InferenceRepository(database).add([row], attempts)


async def test_costs_are_summed_by_day_by_key_and_by_target(database: Database, make_inference: Any) -> None:
    yesterday = TODAY - DAY_S + 60
    await _store(
        database,
        make_inference(
            attempts=[_attempt("a/x", 0.25), _attempt("b/y", 0.5)], created_at=yesterday, key_id="k"
        ),
        make_inference(attempts=[_attempt("a/x", None)], created_at=yesterday),
        make_inference(attempts=[], arm=Arm.CONTROL, created_at=yesterday),
        make_inference(attempts=[_attempt("a/x", 0.125, "timeout")], created_at=TODAY - 3 * DAY_S),
        make_inference(feature="other", attempts=[_attempt("a/x", 9.0)], created_at=yesterday),
    )
    costs = CostRepository(database)
    first, second = await costs.daily("reply", TODAY - 7 * DAY_S, NOW)
    assert (second.day - first.day, first.eligible, first.cost_usd) == (2, 1, 0.125)
    assert (second.eligible, second.treated, second.priced) == (3, 2, 1)
    assert (second.cost_usd, second.cost_squares) == (0.75, 0.5625)
    assert await costs.spent("feature:reply", TODAY - 7 * DAY_S, NOW) == 0.875
    assert await costs.spent("feature:reply", TODAY - 2 * DAY_S, NOW) == 0.75
    assert await costs.spent("key:k", 0, NOW) == 0.75
    assert await costs.spent("feature:absent", 0, NOW) == 0
    dear, cheap = await costs.by_target("reply", 0, NOW)
    assert (dear.target, dear.attempts, dear.cost_usd, dear.failed) == ("b/y", 1, 0.5, 0)
    assert (cheap.attempts, cheap.failed, cheap.unpriced, cheap.cost_usd) == (3, 1, 1, 0.375)
    assert (cheap.input, cheap.cached_input, cheap.cache_write) == (300, 60, 15)
    assert (cheap.output, cheap.reasoning) == (30, 9)


async def test_todays_part_is_not_taken_for_a_day(database: Database, make_inference: Any) -> None:
    made = [
        make_inference(attempts=[_attempt("a/x", 0.5)], created_at=TODAY - n * DAY_S + 5) for n in (1, 2, 3)
    ]
    await _store(database, *made, make_inference(attempts=[_attempt("a/x", 50.0)], created_at=TODAY))
    found = await CostRepository(database).of("reply", 30, 1.0)
    assert (found.projection.days, found.projection.eligible) == (3, 3)
    assert found.projection.per_request
    assert found.projection.per_request.usd == pytest.approx(0.5)
    assert found.month_usd >= 50.0
    assert found.projection.projected[-1].over_budget


async def test_a_first_day_is_better_than_none(database: Database, make_inference: Any) -> None:
    await _store(database, make_inference(attempts=[_attempt("a/x", 0.5)], created_at=TODAY))
    found = await CostRepository(database).of("reply", 30, None)
    assert (found.projection.days, found.projection.basis) == (1, "requests")
    nothing = await CostRepository(database).of("absent", 30, None)
    assert (nothing.projection.basis, nothing.month_usd, nothing.by_target) == ("nothing", 0, [])
