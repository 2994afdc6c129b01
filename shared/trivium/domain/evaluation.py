"""What an evaluation proves: gates, paired tests, and which differences are more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

from trivium.domain.estimate import Estimate
from trivium.domain.manifest import Threshold

ALPHA = 0.05
"""Two-sided, over all metrics of a comparison together."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """A metric held against its gate; `clears`: its whole 95 % interval is on the right side too."""

    metric: str
    estimate: Estimate
    min: float | None
    max: float | None
    passed: bool
    clears: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of a candidate less that of the baseline on the same cases, with its 95 % interval.

    `p` is two-sided, `adjusted_p` by Holm's method over the metrics; `lower_is_better` as its gate has it.
    """

    metric: str
    baseline: float
    candidate: float
    low: float
    high: float
    p: float
    adjusted_p: float
    test: str
    cases: int
    lower_is_better: bool = False

    @property
    def value(self) -> float:
        """Candidate less baseline."""
        return self.candidate - self.baseline

    @property
    def significant(self) -> bool:
        """Whether chance alone does not explain it."""
        return self.adjusted_p < ALPHA

    @property
    def regression(self) -> bool:
        """Whether the candidate is significantly worse."""
        worse = self.value > 0 if self.lower_is_better else self.value < 0
        return self.significant and worse


def check_gates(estimates: Mapping[str, Estimate], gates: Mapping[str, Threshold]) -> list[GateResult]:
    """Holds the metrics against a manifest's gates; every gate's metric must be there."""
    made = []
    for metric, gate in gates.items():
        found = estimates[metric]
        made.append(
            GateResult(
                metric,
                found,
                gate.min,
                gate.max,
                passed=_within(found.value, found.value, gate),
                clears=_within(found.low, found.high, gate),
            )
        )
    return made


def _within(low: float, high: float, gate: Threshold) -> bool:
    return (gate.min is None or low >= gate.min) and (gate.max is None or high <= gate.max)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of so many cases that only one of the two had right.

    Twice the smaller tail of a binomial of one half (McNemar, Psychometrika 12, 1947, in its exact form).
    """
    n = gained + lost
    if n == 0:
        return 1.0
    tail = sum(exp(_log_choose(n, k) - n * log(2)) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values, adjusted for there being several (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    adjusted, most = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = most
    return adjusted
