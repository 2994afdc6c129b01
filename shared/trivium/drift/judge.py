"""Whether a window has drifted: thresholds by resampling, false discovery controlled over the columns."""

import zlib
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from trivium.domain.drift import ColumnReport, cut_off
from trivium.drift.changes import change_of, shares_of
from trivium.drift.columns import Profile
from trivium.drift.comparisons import Comparison, comparisons
from trivium.drift.measures import Measure
from trivium.drift.resampling import Floats, Ints, draws, draws_for, p_value, threshold, weight

SEED = 6
"""Of the draws: the same window gives the same report."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found; `resamples` is the number of draws behind each p-value."""

    columns: list[ColumnReport]
    absent: dict[str, str]
    resamples: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A comparison with its statistic and the nulls that it is held to, weighted alike."""

    comparison: Comparison
    statistic: float
    scale: float
    nulls: list[Floats]
    p: float


@dataclass(slots=True)
class Judge:
    """Compares windows with one reference, whose own draws it keeps."""

    reference: Profile
    false_discovery_rate: float
    _nulls: dict[tuple[str, int, int], Floats] = field(default_factory=dict)

    def of(self, window: Profile) -> Judgement:
        """Judges a window.

        A column's statistic is held to what draws of the window's size from the reference give against the
        rest of the reference. What passes that is also held to draws of both together: that is exact for
        whatever the reference has hardly any of, such as a first failure. The larger p-value counts.
        """
        compared, absent = comparisons(self.reference, window)
        count = draws_for(len(compared), self.false_discovery_rate)
        found = [self._find(one, window, count) for one in compared]
        cut = cut_off([one.p for one in found], self.false_discovery_rate)
        return Judgement([self._report(one, cut, window) for one in found], absent, count)

    def _find(self, one: Comparison, window: Profile, count: int) -> _Found:
        rows, others = len(one.reference_rows), len(one.window_rows)
        pooled = one.measure(one.reference, one.window)
        statistic = float(pooled.between(np.arange(rows, rows + others)[None])[0])
        scale = sqrt(weight(others, rows))
        nulls = [self._own_null(one, min(others, rows // 2), count)]
        p = p_value(statistic * scale, nulls[0])
        if p <= self.false_discovery_rate:
            own = self.reference.groups[one.reference_rows]
            new = window.groups[one.window_rows]
            groups = np.concatenate([_numbered(own), _numbered(new) + len(own)])
            nulls.append(_null(pooled, groups, others, count, one.name))
            p = max(p, p_value(statistic * scale, nulls[1]))
        return _Found(one, statistic, scale, nulls, p)

    def _own_null(self, one: Comparison, size: int, count: int) -> Floats:
        key = (one.name, size, count)
        if key not in self._nulls:
            groups = _numbered(self.reference.groups[one.reference_rows])
            self._nulls[key] = _null(one.measure(one.reference), groups, size, count, one.name)
        return self._nulls[key]

    def _report(self, found: _Found, cut: float, window: Profile) -> ColumnReport:
        one = found.comparison
        return ColumnReport(
            name=one.name,
            measure=one.how,
            statistic=found.statistic,
            threshold=max(threshold(null, cut) for null in found.nulls) / found.scale,
            p_value=found.p,
            drifted=found.p <= cut,
            reference_rows=len(one.reference_rows),
            window_rows=len(one.window_rows),
            change=change_of(one, self.reference, window),
            shares=shares_of(one, window),
        )


def _null(measure: Measure, groups: Ints, size: int, count: int, name: str) -> Floats:
    """Weighted statistics of draws against what they leave."""
    random = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    found = [measure.between(chosen) for chosen in draws(groups, size, count, random)]
    return np.concatenate(found) * sqrt(weight(size, len(groups) - size))


def _numbered(groups: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> Ints:
    return np.asarray(np.unique(groups, return_inverse=True)[1], dtype=np.int64)
