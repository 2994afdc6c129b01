"""Bounds that hold at every look: their formula, and how often they miss."""

import random
from itertools import pairwise
from math import erf, exp, inf, log, sqrt

import pytest

from trivium.domain.estimate import ClusterSums
from trivium.domain.sequential import (
    ALPHA,
    ALPHA_SHARES,
    RUNNING_STAGES,
    alpha_of,
    boundary,
    effective_subjects,
    information,
    lower_bound,
    sample_ratio,
    smoothed,
)


def _sums(subjects: list[tuple[int, int]]) -> ClusterSums:
    """Of subjects, each with its occasions and its events."""
    return ClusterSums(
        len(subjects),
        sum(n for n, _ in subjects),
        sum(k for _, k in subjects),
        sum(n * n for n, _ in subjects),
        sum(k * k for _, k in subjects),
        sum(n * k for n, k in subjects),
    )


def _even(subjects: int, with_event: int) -> ClusterSums:
    return _sums([(1, 1)] * with_event + [(1, 0)] * (subjects - with_event))


def _bound(
    treatment: ClusterSums, control: ClusterSums, alpha: float = 0.0025, tightest: float = 400
) -> float:
    return lower_bound(treatment, control, margin=0.0, alpha=alpha, tightest_at=tightest).low


def test_the_boundary_is_that_of_the_paper() -> None:
    # sqrt(2 (t rho² + 1) / (t² rho²) log(1 + sqrt(t rho² + 1) / (2 alpha))) · sqrt(t), by hand for t = 500,
    # alpha = 0.05 and rho² = (-2 log 0.1 + log(1 - 2 log 0.1)) / 500 = (4.60517 + 1.72369) / 500.
    assert information(500, 500, 0.05) == pytest.approx(6.328860, abs=1e-5)
    assert boundary(500, 500, 0.05) == pytest.approx(sqrt(2 * 7.32886 / 6.32886 * log(1 + 2.707187 / 0.1)))
    assert boundary(500, 500, 0.05) == pytest.approx(2.77909, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.0025, 0.00001])
def test_the_mixture_has_reached_what_ville_demands_where_the_bound_is_crossed(alpha: float) -> None:
    """It is 2 / sqrt(u + 1) · exp(x² / 2) · Phi(x), x = z sqrt(u / (u + 1)); much more would be too timid."""
    for t in (1, 10, 400, 10_000, 10**7):
        u = information(t, 400, alpha)
        x = boundary(t, 400, alpha) * sqrt(u / (u + 1))
        reached = 2 / sqrt(u + 1) * exp(x * x / 2) * (1 + erf(x / sqrt(2))) / 2
        assert reached >= 1 / alpha
        assert reached < 1.2 / alpha + 2


def test_the_bound_is_tightest_where_it_is_tuned_for_and_grows_slowly() -> None:
    for alpha in (0.05, 0.0025):
        tightest = min((boundary(t, 400, alpha), t) for t in range(100, 1600, 10))
        assert 350 <= tightest[1] <= 500
        assert boundary(400, 400, alpha) < boundary(40_000, 400, alpha) < 1.25 * boundary(400, 400, alpha)
    alphas = (0.1, 0.05, 0.01, 0.001)
    assert all(boundary(400, 400, a) < boundary(400, 400, b) for a, b in pairwise(alphas))
    assert boundary(0, 400, 0.05) == inf


def test_a_standard_normal_walk_crosses_no_more_often_than_stated_and_a_fixed_interval_would() -> None:
    rng = random.Random(6)
    looks = [int(10 * 1.06**i) for i in range(130)]
    bounds = [boundary(t, 400, 0.05) for t in looks]
    steps = [sqrt(b - a) for a, b in pairwise([0, *looks])]
    walks, crossed, naive = 1_500, 0, 0
    for _ in range(walks):
        place, over, over_naive = 0.0, False, False
        for t, bound, step in zip(looks, bounds, steps, strict=True):
            place += rng.gauss(0, step)
            z = place / sqrt(t)
            over |= z > bound
            over_naive |= z > 1.645
        crossed += over
        naive += over_naive
    # Four standard errors above the truth (0.031 by 100,000 walks) and below it; twice alpha would be 0.06.
    assert 0.013 < crossed / walks < 0.05
    assert naive / walks > 0.25


def _rollout(rng: random.Random, subjects: int, rates: tuple[float, float], each: int = 20) -> bool:
    """Whether a rollout at 50 % ever proves a regression. Subjects send 1 to 9 requests, alike in fate."""
    sums = [[0.0] * 6, [0.0] * 6]
    for number in range(subjects):
        arm = rng.random() < 0.5
        own = rng.betavariate(4 * rates[arm], 4 * (1 - rates[arm]))
        n = rng.randint(1, 9)
        k = sum(rng.random() < own for _ in range(n))
        for place, value in enumerate((1, n, k, n * n, k * k, n * k)):
            sums[arm][place] += value
        if number > 100 and number % each == 0:
            control, treatment = (ClusterSums(int(one[0]), *one[1:]) for one in sums)
            if _bound(treatment, control, alpha=0.05, tightest=200) > 0:
                return True
    return False


def test_equal_arms_of_correlated_requests_are_seldom_told_apart_and_unequal_ones_nearly_always() -> None:
    rng = random.Random(7)
    alarms = sum(_rollout(rng, 1_000, (0.3, 0.3)) for _ in range(400))
    # Bounds that take a subject's requests as independent of each other, or that hold at one look, fail here.
    assert alarms / 400 < 0.05
    found = sum(_rollout(rng, 1_000, (0.2, 0.35)) for _ in range(40))
    assert found >= 38


def test_more_of_the_same_raises_the_bound_and_a_smaller_alpha_lowers_it() -> None:
    worse, better = [_even(n, n * 3 // 10) for n in (100, 400, 1600)], _even(1_000, 100)
    lows = [_bound(one, better) for one in worse]
    assert lows == sorted(lows) and lows[-1] > 0
    assert _bound(worse[1], better, alpha=0.05) > _bound(worse[1], better, alpha=0.001)
    assert _bound(worse[1], better) > _bound(_even(400, 100), better)


def test_requests_of_one_subject_count_less_than_those_of_many() -> None:
    control = _even(2_000, 200)
    alike = _sums([(10, 10)] * 80 + [(10, 0)] * 120)
    apart = _sums([(10, 4)] * 200)
    assert alike.ratio == apart.ratio == 0.4
    assert _bound(alike, control) < _bound(apart, control)
    heavy = _sums([(1_000, 1_000)] + [(1, 0)] * 500)
    assert effective_subjects(heavy) < 3
    assert _bound(heavy, control) == -inf


def test_arms_without_events_have_a_bound_of_some_width() -> None:
    none = _even(200, 0)
    assert none.standard_error == 0.0
    assert smoothed(none).standard_error == pytest.approx(1.4 / 200, rel=0.05)
    assert -0.06 < _bound(none, none) < -0.02
    assert _bound(_even(200, 1), none) < 0, "one event proves nothing"
    assert smoothed(_even(100_000, 20_000)).standard_error == pytest.approx(
        _even(100_000, 20_000).standard_error, rel=1e-3
    )
    assert smoothed(ClusterSums()) == ClusterSums()
    assert _bound(ClusterSums(), none) == -inf


def test_all_tests_of_all_stages_and_visits_spend_alpha_and_no_more() -> None:
    spent = [alpha_of(test, visit) for test in ALPHA_SHARES for visit in range(1, 60)]
    assert RUNNING_STAGES * sum(spent) == pytest.approx(ALPHA)
    assert RUNNING_STAGES * sum(spent) <= ALPHA
    assert alpha_of("errors", 2) == alpha_of("errors", 1) / 2


def test_the_evidence_of_a_sample_ratio_is_the_bayes_factor() -> None:
    # A prior Beta(50, 50) gives one subject in treatment the probability 1/2 and a second 51/101.
    assert sample_ratio(1, 0, 0.5, 0.01).evidence == pytest.approx(0.0)
    assert sample_ratio(2, 0, 0.5, 0.01).evidence == pytest.approx(log(51 / 101 * 2))
    assert sample_ratio(1, 1, 0.1, 0.01).evidence == pytest.approx(log(10 / 100 * 90 / 101 / 0.09))
    assert sample_ratio(0, 0, 0.1, 0.01).evidence == pytest.approx(0.0)
    assert not sample_ratio(0, 0, 0.1, 0.01).mismatch


def test_the_planned_ratio_seldom_raises_an_alarm_and_another_does() -> None:
    def held(rng: random.Random, share: float, subjects: int, alpha: float) -> bool:
        treated = 0
        for n in range(1, subjects + 1):
            treated += rng.random() < share
            if n % 10 == 0 and sample_ratio(treated, n - treated, 0.5, alpha).mismatch:
                return True
        return False

    rng = random.Random(8)
    assert sum(held(rng, 0.5, 2_000, 0.05) for _ in range(300)) / 300 < 0.05
    assert sum(held(rng, 0.45, 6_000, 0.0008) for _ in range(20)) >= 19
    assert sample_ratio(450, 550, 0.5, 0.0008).share == 0.45
