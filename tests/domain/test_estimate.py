"""Intervals against scipy, and their coverage."""

import random
from math import sqrt

import pytest
from scipy import stats

from trivium.domain.estimate import (
    ClusterSums,
    clustered_share,
    mean,
    quantile,
    quantile_ranks,
    share,
)


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 50), (1, 20), (7, 30), (50, 50), (980, 1000)])
def test_a_shares_interval_is_wilsons(count: int, n: int) -> None:
    found = share(count, n)
    assert found
    known = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-6)
    assert (found.value, found.n) == (count / n, n)


def test_of_nothing_there_is_no_estimate() -> None:
    assert (share(0, 0), mean([]), quantile([], 0.5), clustered_share(ClusterSums())) == (None,) * 4


def test_a_quantiles_interval_covers_the_truth() -> None:
    rng = random.Random(7)
    hits = 0
    for _ in range(400):
        found = quantile(sorted(rng.expovariate(1) for _ in range(300)), 0.9)
        assert found
        hits += found.low <= stats.expon.ppf(0.9) <= found.high
    assert 0.92 <= hits / 400 <= 1.0


@pytest.mark.parametrize("n", [1, 2, 10, 99, 5000])
@pytest.mark.parametrize("q", [0.5, 0.99])
def test_ranks_lie_within_and_in_order(n: int, q: float) -> None:
    at, low, high = quantile_ranks(n, q)
    assert 1 <= low <= at <= high <= n


def _sums(clusters: list[tuple[int, int]]) -> ClusterSums:
    n, k, nn, kk, nk = (
        float(sum(values)) for values in zip(*((n, k, n * n, k * k, n * k) for n, k in clusters), strict=True)
    )
    return ClusterSums(len(clusters), n, k, nn, kk, nk)


def test_alike_clusters_of_one_are_independent_observations() -> None:
    sums = _sums([(1, int(i < 30)) for i in range(100)])
    assert sums.standard_error == pytest.approx(sqrt(0.3 * 0.7 / 99))
    clustered, plain = clustered_share(sums), share(30, 100)
    assert clustered
    assert plain
    # The sample's variance has n - 1 below it, so that the design effect is a hundredth over 1.
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=2e-3)


def test_an_interval_that_minds_the_subjects_covers_where_one_that_does_not_fails() -> None:
    rng = random.Random(3)
    minded = unminded = 0
    for _ in range(300):
        clusters = []
        for _ in range(60):
            p = rng.betavariate(0.5, 1.5)  # mean 0.25; subjects differ much
            n = rng.randint(1, 20)
            clusters.append((n, sum(rng.random() < p for _ in range(n))))
        sums = _sums(clusters)
        with_clusters, without = clustered_share(sums), share(int(sums.k), int(sums.n))
        assert with_clusters
        assert without
        minded += with_clusters.low <= 0.25 <= with_clusters.high
        unminded += without.low <= 0.25 <= without.high
    assert minded / 300 > 0.9
    assert unminded / 300 < 0.8
