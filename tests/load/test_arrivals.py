"""The schedule is decided before the run."""

import itertools
import statistics

import pytest

from trivium.load import Arrivals, arrival_times


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = arrival_times(Arrivals.CONSTANT, 200, 2)
    assert len(times) == 400
    assert times[0] == 0 and times[1] == pytest.approx(0.005) and times[-1] == pytest.approx(1.995)


def test_poisson_arrivals_have_exponential_gaps() -> None:
    times = arrival_times(Arrivals.POISSON, 1000, 20, seed=3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 20_000 and times[0] >= 0 and times[-1] < 20
    assert statistics.mean(gaps) == pytest.approx(0.001, rel=0.01)
    assert statistics.pstdev(gaps) == pytest.approx(0.001, rel=0.05)
    per_100_ms = [0] * 200
    for at in times:
        per_100_ms[int(at * 10)] += 1
    assert statistics.pvariance(per_100_ms) == pytest.approx(100, rel=0.35)


def test_poisson_arrivals_are_seeded() -> None:
    first, again, other = (arrival_times(Arrivals.POISSON, 50, 2, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_there_is_always_a_request() -> None:
    assert len(arrival_times(Arrivals.POISSON, 0.1, 1)) == len(arrival_times(Arrivals.CONSTANT, 0.1, 1)) == 1
