"""What a feature costs, and what it would cost at each share of its traffic."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

SHARES = (0.05, 0.25, 0.5, 1.0)
"""limited, expand-25, expand-50, ga."""
MONTH_DAYS = 30.44
_Z = 1.959964  # of a two-sided interval of 95 %


@dataclass(frozen=True, slots=True)
class Day:
    """One UTC day of a feature or a route.

    `eligible` requests came, `treated` of them got the AI; `cost_usd` and `cost_squares` sum the cost of
    those and its square, over the `priced` of them; the others had an attempt whose price is not known.
    `day` counts from 1970.
    """

    day: int
    eligible: int
    treated: int
    priced: int
    cost_usd: float
    cost_squares: float


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval, in USD."""

    usd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Projected:
    """What a month at one share of the traffic would cost."""

    share: float
    month: Interval
    over_budget: bool | None


@dataclass(frozen=True, slots=True)
class Projection:
    """What was counted, and what follows.

    `basis`: "requests and traffic", or "requests" where there are too few days to know how traffic varies:
    the intervals then take it as it was. `unpriced` treated requests had an attempt of unknown price; the
    figures are those of the others.
    """

    days: int
    eligible: int
    treated: int
    unpriced: int
    cost_usd: float
    per_request: Interval | None
    basis: Literal["requests and traffic", "requests", "nothing"]
    projected: list[Projected]


def project(days: Sequence[Day], whole_days: int, budget_usd: float | None) -> Projection:
    """Costs of a request, traffic of a day, and their product for a month.

    With the mean cost c of a treated request (standard error s, of n requests) and the mean traffic t of a
    day (standard error u, of d days), a month at the share p costs 30.44 p c t. Its standard error is by the
    delta method 30.44 p sqrt(c^2 u^2 + t^2 s^2), c and t being independent (Casella and Berger, Statistical
    Inference, 5.5.4).

    Args:
        days: on which something came; of the others nothing is known but that nothing came.
        whole_days: that the days stand for, the empty ones included; the last may be a part.
        budget_usd: of a month.
    """
    treated, priced = sum(day.treated for day in days), sum(day.priced for day in days)
    cost, squares = sum(day.cost_usd for day in days), sum(day.cost_squares for day in days)
    eligible = sum(day.eligible for day in days)
    if not priced or not whole_days:
        return Projection(whole_days, eligible, treated, treated - priced, cost, None, "nothing", [])
    mean = cost / priced
    spread = max(0.0, squares / priced - mean**2) * priced / max(1, priced - 1)
    mean_error = sqrt(spread / priced)
    traffic = eligible / whole_days
    varies = whole_days >= 2
    traffic_error = 0.0
    if varies:
        squared = sum((day.eligible - traffic) ** 2 for day in days) + (whole_days - len(days)) * traffic**2
        # Never less than requests that come independently of each other would show.
        traffic_error = sqrt(max(squared / (whole_days - 1), traffic) / whole_days)
    error = sqrt((mean * traffic_error) ** 2 + (traffic * mean_error) ** 2)
    projected = [_projected(share, mean * traffic, error, budget_usd) for share in SHARES]
    return Projection(
        whole_days,
        eligible,
        treated,
        treated - priced,
        cost,
        _interval(mean, mean_error),
        "requests and traffic" if varies else "requests",
        projected,
    )


def _projected(share: float, day_usd: float, day_error: float, budget_usd: float | None) -> Projected:
    month = _interval(MONTH_DAYS * share * day_usd, MONTH_DAYS * share * day_error)
    return Projected(share, month, None if budget_usd is None else month.usd > budget_usd)


def _interval(mean: float, error: float) -> Interval:
    return Interval(mean, max(0.0, mean - _Z * error), mean + _Z * error)
