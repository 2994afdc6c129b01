"""Estimates that say how sure they are: shares, means and quantiles with 95 % intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt

Z = 1.959964
"""Of a two-sided interval of 95 % under the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure from `n` observations, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def share(count: int, n: int) -> Estimate | None:
    """A share with Wilson's score interval, which holds for few observations and near 0 and 1; None of none.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    return share_of(count / n, n) if n else None


def share_of(p: float, n: float) -> Estimate:
    """As `share`, of an observed share that is worth `n` independent observations, perhaps a fraction."""
    square = Z * Z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * sqrt(p * (1 - p) / n + square / (4 * n * n))
    return Estimate(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), round(n))


def mean(values: Sequence[float]) -> Estimate | None:
    """A mean with the interval of the normal approximation; of one value the interval is that value."""
    n = len(values)
    if n == 0:
        return None
    m = sum(values) / n
    half = Z * sqrt(sum((v - m) ** 2 for v in values) / (n - 1) / n) if n > 1 else 0.0
    return Estimate(m, m - half, m + half, n)


def quantile_ranks(n: int, q: float) -> tuple[int, int, int]:
    """The ranks, counted from 1, of a quantile and of the ends of its 95 % interval.

    The number of observations under the quantile is binomial, so that the interval's ends are order
    statistics, whatever the distribution (David and Nagaraja, Order Statistics, 7.1).
    """
    half = Z * sqrt(n * q * (1 - q))
    low, high = floor(n * q - half), ceil(n * q + half) + 1
    return max(1, min(n, ceil(n * q))), max(1, low), max(1, min(n, high))


def quantile(ordered: Sequence[float], q: float) -> Estimate | None:
    """A quantile of values in ascending order, with its interval."""
    if not ordered:
        return None
    at, low, high = quantile_ranks(len(ordered), q)
    return Estimate(ordered[at - 1], ordered[low - 1], ordered[high - 1], len(ordered))


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """A ratio of two counts that come in clusters: a subject's requests are not independent of each other.

    Over `units` subjects, of whom i has n_i occasions and k_i events: `n`, `k` sum these, `nn`, `kk`, `nk`
    their squares and products.
    """

    units: int = 0
    n: float = 0.0
    k: float = 0.0
    nn: float = 0.0
    kk: float = 0.0
    nk: float = 0.0

    @property
    def ratio(self) -> float:
        """Events an occasion; 0 of none."""
        return self.k / self.n if self.n else 0.0

    @property
    def standard_error(self) -> float:
        """Of the ratio, linearised over the clusters (Cochran, Sampling Techniques, 2.11); 0 of none."""
        if self.units < 2 or not self.n:
            return 0.0
        r = self.ratio
        squares = max(0.0, self.kk - 2 * r * self.nk + r * r * self.nn)
        return sqrt(squares * self.units / (self.units - 1)) / self.n


NOTHING = ClusterSums()


def clustered_share(sums: ClusterSums) -> Estimate | None:
    """A share of occasions in clusters: Wilson's interval of as many as would say as much; None of none.

    The occasions are divided by the design effect, the ratio of the clustered variance to that of independent
    ones (Kish, Survey Sampling, 8.2), where that is over 1.
    """
    if not sums.n:
        return None
    p, se = sums.ratio, sums.standard_error
    independent = p * (1 - p) / sums.n
    effect = max(1.0, se * se / independent) if independent > 0 else 1.0
    found = share_of(p, sums.n / effect)
    return Estimate(found.value, found.low, found.high, int(sums.n))
