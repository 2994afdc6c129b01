"""What a classifier is judged by; all take numpy arrays, none needs torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BINS = 15


class Bin(NamedTuple):
    """One bar of a reliability plot."""

    confidence: float
    accuracy: float
    messages: int


class Coverage(NamedTuple):
    """What is answered from a confidence on, and how much of that is right."""

    confidence: float
    share: float
    precision: float


def softmax(logits: Floats) -> Floats:
    """Row-wise probabilities, [n, labels]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def energy(logits: Floats) -> Floats:
    """The negative free energy of each row, [n]: higher is more in scope (Liu et al., 2020)."""
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)), dtype=np.float32)


def accuracy(scores: Floats, targets: Ints) -> float:
    """Share of rows whose largest score is the target's."""
    return float((scores.argmax(axis=1) == targets).mean())


def balanced_accuracy(scores: Floats, targets: Ints) -> float:
    """Unweighted mean of the recall of every label: accuracy where all labels are equally frequent."""
    right = scores.argmax(axis=1) == targets
    return float(np.mean([right[targets == label].mean() for label in np.unique(targets)]))


def macro_f1(scores: Floats, targets: Ints) -> float:
    """Unweighted mean of the F1 of every label that occurs in `targets`."""
    predicted = scores.argmax(axis=1)
    found = []
    for label in np.unique(targets):
        hits = int(((predicted == label) & (targets == label)).sum())
        claimed, actual = int((predicted == label).sum()), int((targets == label).sum())
        found.append(2 * hits / (claimed + actual))
    return float(np.mean(found))


def reliability(probabilities: Floats, targets: Ints, bins: int = BINS) -> list[Bin]:
    """Mean confidence and accuracy in bins of equal width; empty bins are left out."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    members = [which == b for b in np.unique(which)]
    return [Bin(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in members]


def expected_calibration_error(probabilities: Floats, targets: Ints, bins: int = BINS) -> float:
    """Mean gap of confidence and accuracy over equal-width bins, weighted by their size.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015).
    """
    found = reliability(probabilities, targets, bins)
    return sum(abs(b.confidence - b.accuracy) * b.messages for b in found) / len(targets)


def wilson(share: float, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was seen in `of` cases (Wilson, 1927)."""
    centre = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    reach = z / (1 + z**2 / of) * float(np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2)))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def confidence_for(probabilities: Floats, targets: Ints, precision: float) -> float:
    """The lowest confidence from which on at least `precision` of the rows are right; 1 if there is none."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == targets)[order]
    so_far = right.cumsum() / np.arange(1, len(right) + 1)
    enough = np.flatnonzero(so_far >= precision)
    return float(confidence[order][enough[-1]]) if len(enough) else 1.0


def coverage(probabilities: Floats, targets: Ints, confidence: float) -> Coverage:
    """Share and precision of the rows with at least this confidence."""
    covered = probabilities.max(axis=1) >= confidence
    right = probabilities.argmax(axis=1) == targets
    precision = float(right[covered].mean()) if covered.any() else 1.0
    return Coverage(confidence, float(covered.mean()), precision)


def auroc(higher: Floats, lower: Floats) -> float:
    """Probability that a score of `higher` exceeds one of `lower`; ties count half (Mann-Whitney)."""
    both = np.concatenate([higher, lower])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    n, m = len(higher), len(lower)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
