"""The score of being in scope: a Mahalanobis distance, mapped to 0 to 1."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_model.training.metrics import Floats, Ints

SHRINKAGE = 0.05
"""Share of the mean variance that is added to every direction, so that few messages suffice."""
KEPT = 0.99
"""Share of the validation messages that the threshold keeps."""
_AT_MEDIAN = 0.95
"""What the median validation message is mapped to; it fixes the slope."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance of an embedding to the nearest label, in units of the spread within labels.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks" (2018): one Gaussian per label, one covariance for all. An embedding minus `centre`
    [hidden] times `projection` [hidden, hidden] is white; `means` [labels, hidden] are white already.
    """

    centre: Floats
    projection: Floats
    means: Floats

    def of(self, embeddings: Floats) -> Floats:
        """The distances, [n]."""
        white = (embeddings - self.centre) @ self.projection
        squares = (white**2).sum(1)[:, None] - 2 * white @ self.means.T + (self.means**2).sum(1)
        return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ScopeMap:
    """`1 / (1 + exp(slope * (distance - middle)))`: 0.5 where the distance is `middle`."""

    distance: Distance
    middle: float
    slope: float

    def of(self, embeddings: Floats) -> Floats:
        """The scores, [n], in 0 to 1."""
        raised = self.slope * (self.middle - self.distance.of(embeddings))
        # The logistic function by way of tanh, which does not overflow.
        return np.asarray((1 + np.tanh(raised / 2)) / 2, dtype=np.float32)


def fit_distance(embeddings: Floats, targets: Ints, shrinkage: float = SHRINKAGE) -> Distance:
    """Fits means and the shared covariance to the embeddings of the training messages."""
    labels = np.unique(targets)
    means = np.stack([embeddings[targets == label].mean(axis=0) for label in labels]).astype(np.float64)
    offsets = embeddings - means[np.searchsorted(labels, targets)]
    covariance: NDArray[np.float64] = offsets.T @ offsets / len(offsets)
    spread = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * spread * np.eye(len(covariance))
    projection = np.linalg.cholesky(np.linalg.inv(covariance))
    # Centred, the squares of which the graph takes differences are small, and float32 is enough.
    centre = means.mean(axis=0)
    white = (means - centre) @ projection
    return Distance(centre.astype(np.float32), projection.astype(np.float32), white.astype(np.float32))


def fit_map(distance: Distance, validation: Floats, kept: float = KEPT) -> ScopeMap:
    """Sets the threshold and the slope by validation messages, all of which are in scope."""
    found = distance.of(validation)
    middle = float(np.quantile(found, kept))
    room = max(middle - float(np.median(found)), 1e-6)
    return ScopeMap(distance, middle, float(np.log(_AT_MEDIAN / (1 - _AT_MEDIAN)) / room))
