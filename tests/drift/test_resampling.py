"""Draws, p-values and thresholds."""

import numpy as np
import pytest

from trivium.domain.drift import cut_off
from trivium.drift.measures import Distributions
from trivium.drift.resampling import draws, draws_for, p_value, threshold, weight


def test_a_draw_has_each_row_at_most_once_and_all_rows_alike() -> None:
    found = np.concatenate(list(draws(np.arange(40), 10, 4_000, np.random.default_rng(1))))
    assert found.shape == (4_000, 10)
    assert all(len(set(rows)) == 10 for rows in found[:200].tolist())
    counts = np.bincount(found.ravel(), minlength=40)
    assert abs(counts - 1_000).max() < 150


def test_a_subjects_rows_are_drawn_together() -> None:
    groups = np.repeat(np.arange(10), 6)
    found = np.concatenate(list(draws(groups, 20, 300, np.random.default_rng(1))))
    for rows in found:
        per_group = sorted(np.bincount(groups[rows], minlength=10).tolist())
        assert per_group == [0] * 6 + [2, 6, 6, 6]


def test_a_draw_beside_a_smaller_rest_is_weighted_alike() -> None:
    """Without the weight the rest of a reference, which a draw was taken from, makes for larger distances."""
    random = np.random.default_rng(2)
    reference, window = 300, 150
    own, true = [], []
    for _ in range(150):
        values = random.normal(size=reference + window)
        measure = Distributions(values[:reference])
        rows = np.concatenate(list(draws(np.arange(reference), window, 20, random)))
        own += list(measure.between(rows) * np.sqrt(weight(window, reference - window)))
        both = Distributions(values).between(np.arange(reference, reference + window)[None])
        true.append(float(both[0]) * np.sqrt(weight(window, reference)))
    assert np.median(own) == pytest.approx(np.median(true), rel=0.05)
    unweighted = np.median(own) / np.sqrt(weight(window, reference - window))
    assert unweighted > 1.1 * np.median(true) / np.sqrt(weight(window, reference))


@pytest.mark.parametrize("cut", [0.001, 0.005, 0.02, 0.05, 0.3])
def test_a_statistic_is_over_the_threshold_just_when_its_p_value_is_small(cut: float) -> None:
    random = np.random.default_rng(3)
    null = np.round(random.random(1_999), 2)  # with ties
    limit = threshold(null, cut)
    for statistic in np.concatenate([null[:200], random.random(200), [0.0, 1.0, 2.0]]):
        assert (statistic > limit) == (p_value(statistic, null) <= cut), statistic
    assert threshold(null, 1e-9) == np.inf


def test_there_are_as_many_draws_as_the_strictest_discovery_needs() -> None:
    for columns in (1, 12, 60):
        assert 10 / (draws_for(columns, 0.05) + 1) <= 0.05 / columns
    assert draws_for(1, 0.4) == 1_000


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    # Their example of 15 p-values (1995), of which the first four are discoveries at 0.05.
    given = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    given += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert sum(p <= cut_off(given, 0.05) for p in given) == 4
    assert cut_off([0.2, 0.9], 0.05) == 0.025
    assert cut_off([0.04, 0.05], 0.05) == 0.05
    assert cut_off([], 0.05) == 0.0
