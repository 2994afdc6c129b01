"""What a classifier is judged by: accuracy, macro-F1, expected calibration error."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def softmax(logits: Floats) -> Floats:
    """Row-wise probabilities, [n, labels]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def accuracy(logits: Floats, targets: Ints) -> float:
    """Share of rows whose largest logit is the target's."""
    return float((logits.argmax(axis=1) == targets).mean())


def macro_f1(logits: Floats, targets: Ints) -> float:
    """Unweighted mean of the F1 of every label that occurs in `targets`."""
    predicted = logits.argmax(axis=1)
    scores = []
    for label in np.unique(targets):
        hits = int(((predicted == label) & (targets == label)).sum())
        claimed, actual = int((predicted == label).sum()), int((targets == label).sum())
        scores.append(2 * hits / (claimed + actual) if claimed + actual else 0.0)
    return float(np.mean(scores))


def expected_calibration_error(logits: Floats, targets: Ints, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy over equal-width bins, weighted by their size.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015).
    """
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[which == b].mean()) - float(right[which == b].mean()))
        * float((which == b).mean())
        for b in np.unique(which)
    ]
    return float(np.sum(gaps))
