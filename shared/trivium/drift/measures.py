"""Distances of two samples, the observed one and those of many draws at once.

Each is made from the pooled rows of both samples; `between(chosen)` gives for every row of `chosen`, indices
[draws, size], the distance of the chosen rows to the others. All grow with the square root of what a squared
distance does (see resampling.weight).
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import jensenshannon

from trivium.drift.resampling import Floats, Ints

Matrix = NDArray[np.float32]


class Measure(Protocol):
    """A distance between some of the pooled rows and the others."""

    def between(self, chosen: Ints) -> Floats:
        """The distances, [draws]."""
        ...


class Distributions:
    """The Kolmogorov-Smirnov statistic: the largest gap between two cumulative distributions, 0 to 1.

    As scipy.stats.ks_2samp, of many draws at once.
    """

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] > ordered[:-1], True))
        self._place = np.empty(len(values), dtype=np.int64)
        self._place[self._order] = np.arange(len(values))

    def between(self, chosen: Ints) -> Floats:
        """See Measure."""
        rows, size = len(self._place), chosen.shape[1]
        inside = np.zeros((len(chosen), rows), dtype=np.int32)
        np.put_along_axis(inside, self._place[chosen], 1, axis=1)
        counts = np.cumsum(inside, axis=1, out=inside)[:, self._ends]
        others = (self._ends + 1) - counts
        return np.asarray(np.abs(counts / size - others / (rows - size)).max(axis=1))


class Means:
    """The difference of two means; of zeros and ones, of two shares."""

    def __init__(self, values: Floats) -> None:
        self._values = values

    def between(self, chosen: Ints) -> Floats:
        """See Measure."""
        size, inside = chosen.shape[1], self._values[chosen].sum(axis=1)
        others = (self._values.sum() - inside) / (len(self._values) - size)
        return np.asarray(np.abs(inside / size - others))


class Categories:
    """The Jensen-Shannon distance of two distributions over labels, 0 to 1 (scipy's, to the base 2)."""

    def __init__(self, codes: Ints, number: int) -> None:
        self._codes, self._number = codes, number
        self._all = np.bincount(codes, minlength=number)

    def between(self, chosen: Ints) -> Floats:
        """See Measure."""
        shifted = self._codes[chosen] + self._number * np.arange(len(chosen))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=self._number * len(chosen))
        inside = counts.reshape(len(chosen), self._number)
        return _jensen_shannon(inside, self._all - inside)


class Tokens:
    """The Jensen-Shannon distance of two distributions over the buckets of hashed words, 0 to 1.

    Whole texts are drawn, not words: those of one text belong together.
    """

    def __init__(self, starts: Ints, hashes: NDArray[np.uint32], buckets: int) -> None:
        used, found = np.unique(hashes % np.uint32(buckets), return_inverse=True)
        shape = (len(starts) - 1, max(1, len(used)))
        self._counts = sparse.csr_matrix((np.ones(len(found)), found, starts), shape=shape)
        self._all = np.asarray(self._counts.sum(axis=0)).ravel()

    def between(self, chosen: Ints) -> Floats:
        """See Measure."""
        draws, size = chosen.shape
        starts = np.arange(0, draws * size + 1, size)
        shape = (draws, self._counts.shape[0])
        drawn = sparse.csr_matrix((np.ones(draws * size), chosen.ravel(), starts), shape=shape)
        inside = np.asarray((drawn @ self._counts).todense())
        return _jensen_shannon(inside, self._all - inside)


class Energy:
    """The energy distance of vectors: 0 if and only if the distributions are the same.

    The square root of 2 E|X - Y| - E|X - X'| - E|Y - Y'|, as scipy.stats.energy_distance has it for numbers
    (there times the square root of 2). Székely and Rizzo, Energy statistics, J. Stat. Plan. Inference (2013).
    """

    def __init__(self, vectors: Matrix) -> None:
        squares = (vectors**2).sum(axis=1)
        products = vectors @ vectors.T
        self._distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
        np.fill_diagonal(self._distances, 0)
        self._to_all = self._distances.sum(axis=1, dtype=np.float64)

    def between(self, chosen: Ints) -> Floats:
        """See Measure."""
        rows, size = len(self._to_all), chosen.shape[1]
        inside = np.zeros((len(chosen), rows), dtype=np.float32)
        np.put_along_axis(inside, chosen, 1, axis=1)
        within = np.einsum("ij,ij->i", inside @ self._distances, inside, dtype=np.float64)
        across = self._to_all[chosen].sum(axis=1) - within
        outside = self._to_all.sum() - within - 2 * across
        rest = rows - size
        squared = 2 * across / (size * rest) - within / size**2 - outside / rest**2
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _jensen_shannon(inside: NDArray[Any], others: NDArray[Any]) -> Floats:
    empty, other_empty = inside.sum(axis=1) == 0, others.sum(axis=1) == 0
    with np.errstate(invalid="ignore"):
        found = jensenshannon(inside, others, base=2, axis=1)
    # Of the same distributions it can be the root of a negative rounding error; of nothing it is not defined.
    return np.where(empty != other_empty, 1.0, np.nan_to_num(np.asarray(found, dtype=np.float64)))
