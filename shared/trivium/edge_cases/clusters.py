"""Groups of texts that are about the same, by their vectors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from trivium.edge_cases.texts import Vectors

Groups = NDArray[np.int64]
PAIRS = 20_000
NEAR_PAIRS = 0.02
"""Two texts are about the same if they are nearer than all but so many of the pairs drawn at random."""
LEAST_CUT, MOST_CUT = 0.05, 0.6
SEED = 20_260_101


def cut_of(vectors: Vectors) -> float:
    """The cosine distance within which two texts are about the same, by pairs of the traffic drawn at random.

    How near is near differs from model to model; what does not is that two texts of the traffic are seldom
    about the same.
    """
    n = len(vectors)
    if n < 2:
        return MOST_CUT
    rng = np.random.default_rng(SEED)
    first, second = rng.integers(0, n, PAIRS), rng.integers(0, n, PAIRS)
    apart = first != second
    distances = 1 - np.einsum("ij,ij->i", vectors[first[apart]], vectors[second[apart]])
    return float(np.clip(np.quantile(distances, NEAR_PAIRS), LEAST_CUT, MOST_CUT))


def group(vectors: Vectors, cut: float) -> Groups:
    """The number of each text's group, from 0; average linkage of cosine distances, cut there.

    Memory grows with the square: 3,000 texts take 36 MB.
    """
    if len(vectors) == 0:
        return np.empty(0, dtype=np.int64)
    if len(vectors) == 1:
        return np.zeros(1, dtype=np.int64)
    # The order of the rows decides between equals, so it is made one of the vectors' own.
    order = np.lexsort(vectors.T[:8])
    tree = linkage(vectors[order], method="average", metric="cosine")
    found = np.empty(len(vectors), dtype=np.int64)
    found[order] = fcluster(np.maximum(tree, 0), t=cut, criterion="distance") - 1
    return found


def centres(vectors: Vectors, groups: Groups, wanted: Sequence[int]) -> Vectors:
    """The unit vectors of groups' means; [len(wanted), dimensions]."""
    means = np.stack([vectors[groups == number].mean(axis=0) for number in wanted])
    return np.asarray(
        means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9), dtype=np.float32
    )


def nearest(vectors: Vectors, middles: Vectors, cut: float) -> Groups:
    """For each text the centre within the cut that is nearest to it; -1 where there is none."""
    if not len(middles):
        return np.full(len(vectors), -1, dtype=np.int64)
    similar = vectors @ middles.T
    best = similar.argmax(axis=1)
    near = similar[np.arange(len(vectors)), best] >= 1 - cut
    return np.asarray(np.where(near, best, -1), dtype=np.int64)
