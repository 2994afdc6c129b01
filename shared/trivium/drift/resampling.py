"""Draws of a window's size, and the p-values and thresholds that they give."""

from collections.abc import Iterator
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MIN_DRAWS = 1_000
MARGIN = 10
"""The smallest p-value is at most this part of what the strictest discovery needs."""
KEYS_AT_ONCE = 2_000_000
_EQUAL = 1e-9


def draws_for(columns: int, false_discovery_rate: float) -> int:
    """How many draws are needed, so that a p-value is fine enough for the strictest discovery."""
    return max(MIN_DRAWS, ceil(MARGIN * columns / false_discovery_rate))


def draws(groups: Ints, size: int, count: int, random: np.random.Generator) -> Iterator[Ints]:
    """Draws of `size` rows without replacement, in portions, each [some, size].

    Rows of one group go together, because one subject's inferences are like each other: groups are drawn in
    random order until there are enough rows, and the last is cut.
    """
    _, group = np.unique(groups, return_inverse=True)
    number, rows = int(group.max()) + 1, len(group)
    left = count
    while left:
        some = min(left, max(1, KEYS_AT_ONCE // rows))
        if number == rows:
            keys = random.random((some, rows))
        else:
            # Far smaller than the gaps between groups: it only orders the rows within one.
            keys = random.random((some, number))[:, group] + 1e-8 * random.random((some, rows))
        yield np.argpartition(keys, size - 1, axis=1)[:, :size]
        left -= some


def weight(window: int, rest: int) -> float:
    """Rows that a comparison of two samples is worth.

    A squared distance of two samples of one distribution is as large as 1 / window + 1 / rest. By this the
    distance of a draw to a rest that is smaller than the reference is made comparable.
    """
    return window * rest / (window + rest)


def p_value(statistic: float, null: Floats) -> float:
    """How often the null is as large; the statistic itself counts as one of it, so it is never 0.

    Davison and Hinkley, Bootstrap Methods and their Application (1997), 4.2.
    """
    return float(1 + np.count_nonzero(null >= statistic - _EQUAL)) / (len(null) + 1)


def threshold(null: Floats, cut: float) -> float:
    """What a statistic must be over, so that its p-value is at most `cut`."""
    allowed = floor(cut * (len(null) + 1) + _EQUAL) - 1
    if allowed < 0:
        return float("inf")
    return float(np.sort(null)[::-1][allowed]) + _EQUAL
