"""What a month would cost, and whether its interval holds what it says."""

import random
from math import exp, log

import pytest

from trivium.domain.projection import MONTH_DAYS, SHARES, Day, project


def _day(number: int, eligible: int, costs: list[float], unpriced: int = 0) -> Day:
    treated = len(costs) + unpriced
    return Day(number, eligible, treated, len(costs), sum(costs), sum(cost**2 for cost in costs))


def test_a_month_is_the_cost_of_a_request_times_the_traffic() -> None:
    made = project([_day(n, 100, [0.01] * 10) for n in range(10)], 10, budget_usd=10.0)
    assert made.per_request
    assert made.per_request.usd == pytest.approx(0.01)
    assert made.per_request.low == pytest.approx(made.per_request.high)
    assert [one.share for one in made.projected] == list(SHARES)
    whole = made.projected[-1]
    assert whole.month.usd == pytest.approx(MONTH_DAYS * 100 * 0.01)
    assert whole.month.low < whole.month.usd < whole.month.high
    assert [one.over_budget for one in made.projected] == [False, False, True, True]
    assert made.basis == "requests and traffic"


def test_one_day_says_nothing_of_how_traffic_varies() -> None:
    made = project([_day(0, 100, [0.01, 0.02])], 1, None)
    assert made.basis == "requests"
    assert made.projected[0].over_budget is None


def test_what_has_no_price_is_counted_and_never_zero() -> None:
    made = project([_day(0, 10, [], unpriced=10)], 1, 5.0)
    assert (made.per_request, made.projected, made.unpriced, made.basis) == (None, [], 10, "nothing")
    partly = project([_day(0, 10, [0.5] * 5, unpriced=5)], 1, 5.0)
    assert partly.per_request
    assert (partly.per_request.usd, partly.unpriced) == (0.5, 5)


def test_days_on_which_nothing_came_count() -> None:
    made = project([_day(0, 100, [0.01] * 100), _day(9, 100, [0.01] * 100)], 10, None)
    assert made.projected[-1].month.usd == pytest.approx(MONTH_DAYS * 20 * 0.01)


def test_nothing_is_projected_from_nothing() -> None:
    assert project([], 0, 5.0).basis == "nothing"


def _poisson(rng: random.Random, mean: float) -> int:
    return max(0, round(rng.gauss(mean, mean**0.5)))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(20)
    spread, typical, traffic = 0.8, 0.004, 60.0
    true_cost = exp(log(typical) + spread**2 / 2)  # the mean of a lognormal
    truth = MONTH_DAYS * traffic * true_cost
    held = 0
    for _ in range(400):
        days = []
        for number in range(14):
            eligible = _poisson(rng, traffic)
            treated = round(eligible * 0.25)
            days.append(
                _day(number, eligible, [rng.lognormvariate(log(typical), spread) for _ in range(treated)])
            )
        month = project(days, 14, None).projected[-1].month
        held += month.low <= truth <= month.high
    assert 0.91 <= held / 400 <= 0.98
