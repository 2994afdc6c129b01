"""Which columns of a reference and a window are compared, and how."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.domain.drift import MIN_REFERENCE, MIN_WINDOW
from trivium.drift.columns import Column, Labels, Numbers, Profile, Rows, Vectors, Words
from trivium.drift.measures import Categories, Distributions, Energy, Means, Measure, Tokens

BUCKETS = 4_096
RATES = ("override_rate", "fallback_rate")
ADJACENT = 1_000
"""Rows of similarities that are held at once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One column of both; `measure(parts)` makes the measure of the rows of these, in their order.

    `reference` and `window` are the values; `reference_rows` and `window_rows` say of which rows of the
    profile they are.
    """

    name: str
    how: str
    reference: Any
    window: Any
    reference_rows: Rows
    window_rows: Rows
    measure: Callable[..., Measure]


def comparisons(reference: Profile, window: Profile) -> tuple[list[Comparison], dict[str, str]]:
    """What can be compared, and why the rest cannot."""
    absent = dict(window.absent)
    found = []
    for name, column in reference.columns.items():
        other = window.columns.get(name)
        lacking = _lacking(name, column, other)
        if lacking:
            absent.setdefault(name, lacking)
        elif other is not None:
            found += list(_of_column(name, column, other, reference, window))
    for name in window.columns.keys() - reference.columns.keys():
        absent.setdefault(name, "the reference has none; it was made of something else")
    if "input" in absent:
        for name in ("length", "language", "words", "embedding"):
            absent.pop(name, None)
    return found, absent


def _lacking(name: str, reference: Column, window: Column | None) -> str:
    if window is None:
        return "the window has none"
    if type(window) is not type(reference):
        return "it is of another kind than in the reference: make a new one"
    if isinstance(reference, Vectors) and isinstance(window, Vectors) and reference.model != window.model:
        return f"the reference is embedded by {reference.model}, not {window.model}: make a new one"
    for whose, rows, least in (
        ("reference", reference.rows, MIN_REFERENCE),
        ("window", window.rows, MIN_WINDOW),
    ):
        if len(rows) < least:
            return f"{len(rows)} values in the {whose}, under {least}"
    return ""


def _of_column(
    name: str, column: Column, other: Column, reference: Profile, window: Profile
) -> Iterator[Comparison]:
    match column, other:
        case Numbers(), Numbers():
            measure = Means if name in RATES else Distributions
            how = "difference of rates" if name in RATES else "Kolmogorov-Smirnov"
            yield _numbers(name, how, column, other, column.values, other.values, measure)
        case Labels(), Labels():
            # The window's labels among those of the reference; new ones come after them.
            names = column.names + sorted(set(other.names) - set(column.names))
            place = {label: code for code, label in enumerate(names)}
            codes = np.asarray([place[label] for label in other.names], dtype=np.int64)[other.codes]
            shown = Labels(other.rows, codes, names)
            yield Comparison(
                *(name, "Jensen-Shannon", Labels(column.rows, column.codes, names), shown),
                *(column.rows, other.rows, _categories),
            )
        case Words(), Words():
            yield Comparison(name, "Jensen-Shannon", column, other, column.rows, other.rows, _tokens)
            groups, others = reference.groups[column.rows], window.groups[other.rows]
            own, new = unseen(column, groups, column, groups), unseen(column, groups, other, others)
            yield _numbers("new_words", "difference of shares", column, other, own, new, Means)
        case Vectors(), Vectors():
            yield Comparison(name, "energy distance", column, other, column.rows, other.rows, _energy)
            groups, others = reference.groups[column.rows], window.groups[other.rows]
            own, new = novelty(column, groups, column, groups), novelty(column, groups, other, others)
            yield _numbers("novelty", "Kolmogorov-Smirnov", column, other, own, new, Distributions)


def _numbers(
    name: str,
    how: str,
    column: Column,
    other: Column,
    own: NDArray[np.float64],
    new: NDArray[np.float64],
    measure: Callable[[NDArray[np.float64]], Measure],
) -> Comparison:
    def make(*parts: Numbers) -> Measure:
        return measure(np.concatenate([part.values for part in parts]))

    reference, window = Numbers(column.rows, own), Numbers(other.rows, new)
    return Comparison(name, how, reference, window, column.rows, other.rows, make)


def _categories(*parts: Labels) -> Measure:
    return Categories(np.concatenate([part.codes for part in parts]), len(parts[0].names))


def _tokens(*parts: Words) -> Measure:
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Tokens(starts, np.concatenate([part.hashes for part in parts]), BUCKETS)


def _energy(*parts: Vectors) -> Measure:
    return Energy(np.concatenate([part.matrix for part in parts]))


def unseen(
    reference: Words, groups: NDArray[np.uint64], asked: Words, whose: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """Of each text the share of words that nobody else used in the reference, 0 to 1.

    By this a word of the reference itself can be new too, and the texts of both are asked the same.

    Args:
        reference: the words that are known.
        groups: whose each text of the reference is.
        asked: the texts that are asked about.
        whose: whose each of these is.
    """
    pairs = np.unique(np.stack([reference.hashes.astype(np.uint64), groups[reference.places]]), axis=1)
    known, first, users = np.unique(pairs[0], return_index=True, return_counts=True)
    if not len(known):
        return np.ones(len(asked.rows))
    at = np.minimum(np.searchsorted(known, asked.hashes.astype(np.uint64)), len(known) - 1)
    there = known[at] == asked.hashes
    only_own = (users[at] == 1) & (pairs[1][first[at]] == whose[asked.places])
    new = ~there | only_own
    counts = np.bincount(asked.places, weights=new, minlength=len(asked.rows))
    return np.asarray(counts / np.maximum(np.diff(asked.starts), 1))


def novelty(
    reference: Vectors, groups: NDArray[np.uint64], asked: Vectors, whose: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """Of each vector one minus the cosine to the nearest of the reference that is another subject's.

    Args:
        reference: the vectors that are known, of unit length.
        groups: whose each of them is.
        asked: the vectors that are asked about.
        whose: whose each of these is.
    """
    nearest = np.empty(len(asked.rows))
    for start in range(0, len(asked.rows), ADJACENT):
        part = slice(start, start + ADJACENT)
        cosines = asked.matrix[part] @ reference.matrix.T
        cosines[whose[part][:, None] == groups] = -1
        nearest[part] = cosines.max(axis=1)
    return np.asarray(np.round(1 - nearest, 3))
