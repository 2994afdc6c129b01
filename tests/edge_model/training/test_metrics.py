import numpy as np
import pytest

from edge_model.training import metrics
from edge_model.training.calibration import fit_temperature
from edge_model.training.metrics import Floats, Ints
from edge_model.training.scope import fit_distance, fit_map


def _rows(*rows: list[float]) -> Floats:
    return np.array(rows, dtype=np.float32)


def _classes(*labels: int) -> Ints:
    return np.array(labels, dtype=np.int64)


def test_accuracy_counts_messages_and_the_balanced_one_labels() -> None:
    scores, targets = _rows([1, 0], [1, 0], [1, 0], [1, 0]), _classes(0, 0, 0, 1)
    assert metrics.accuracy(scores, targets) == 0.75
    assert metrics.balanced_accuracy(scores, targets) == 0.5
    assert metrics.macro_f1(scores, targets) == pytest.approx((2 * 3 / 7 + 0) / 2)


def test_the_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    probabilities = _rows(*[[0.9, 0.1]] * 10)
    assert metrics.expected_calibration_error(probabilities, _classes(*[0] * 9, 1)) == pytest.approx(
        0, abs=1e-6
    )
    assert metrics.expected_calibration_error(probabilities, _classes(*[0] * 5, *[1] * 5)) == pytest.approx(
        0.4
    )


def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    def of(higher: list[float], lower: list[float]) -> float:
        return metrics.auroc(np.array(higher, dtype=np.float32), np.array(lower, dtype=np.float32))

    assert of([3, 4], [1, 2]) == 1
    assert of([1, 2], [3, 4]) == 0
    assert of([1, 1], [1, 1]) == 0.5
    assert of([2, 4], [1, 3]) == 0.75


def test_the_lowest_confidence_of_a_precision() -> None:
    probabilities = _rows([0.95, 0.05], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3])
    targets = _classes(0, 0, 1, 0)
    assert metrics.confidence_for(probabilities, targets, 0.98) == pytest.approx(0.9)
    assert metrics.coverage(probabilities, targets, 0.9).share == 0.5
    assert metrics.confidence_for(probabilities, _classes(1, 1, 1, 1), 0.98) == 1


def test_the_temperature_undoes_a_scale() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4_000, 5)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    targets = (logits + noise).argmax(axis=1)
    assert fit_temperature(logits * np.float32(2), targets) == pytest.approx(2, rel=0.05)
    assert fit_temperature(logits / np.float32(2), targets) == pytest.approx(0.5, rel=0.05)


def test_the_scope_score_keeps_what_it_was_told_to_and_falls_with_the_distance() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (4, 16))
    targets = rng.integers(0, 4, 2_000)
    inside = (centres[targets] + rng.normal(0, 1, (2_000, 16))).astype(np.float32)
    far = rng.normal(0, 5, (200, 16)).astype(np.float32)
    scope = fit_map(fit_distance(inside[:1_000], targets[:1_000]), inside[1_000:], kept=0.9)
    assert (scope.of(inside[1_000:]) >= 0.5).mean() == pytest.approx(0.9, abs=0.002)
    assert (scope.of(far) < 0.5).mean() > 0.95
    distances = scope.distance.of(far)
    assert (np.diff(scope.of(far)[np.argsort(distances)]) <= 0).all()
