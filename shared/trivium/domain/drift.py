"""Drift: whether traffic still looks as it did when it was right."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MIN_WINDOW, MIN_REFERENCE = 20, 50
"""Values of a window and of a reference below which a column is not judged."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One inference as far as drift looks at it.

    `input` is None where the payload is not kept. `output` and `confidence` are the variant's own: None where
    something else answered, for the `reason`. `fell_back` says whether it did. That and `overridden` are None
    where it is not known. `at` is Unix seconds.
    """

    id: str
    at: float
    subject_id: str
    input: dict[str, Any] | None
    output: dict[str, Any] | None = None
    confidence: float | None = None
    fell_back: bool | None = None
    reason: str | None = None
    overridden: bool | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """Two distributions side by side: the shares, 0 to 1, of each label or range of values."""

    labels: list[str]
    reference: list[float]
    window: list[float]


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """What became of one column; it has drifted if `statistic` is over `threshold`.

    `measure` says what the statistic is, `change` what is different in words, `p_value` how often the
    statistic is as large by chance.
    """

    name: str
    measure: str
    statistic: float
    threshold: float
    p_value: float
    drifted: bool
    reference_rows: int
    window_rows: int
    change: str
    shares: Shares | None = None

    @property
    def score(self) -> float:
        """The statistic in thresholds: over 1 if it has drifted."""
        if self.statistic <= 0:
            return 0.0
        return self.statistic / max(self.threshold, 1e-9)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A window beside its reference; times are Unix seconds.

    `absent` says why a column is not there. `resamples` draws stand behind every p-value, the smallest of
    which is therefore 1 / (resamples + 1).
    """

    feature: str
    variant: str
    version: str
    window_from: float
    window_until: float
    rows: int
    reference: str
    reference_rows: int
    resamples: int
    false_discovery_rate: float
    columns: list[ColumnReport]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether any column has."""
        return any(column.drifted for column in self.columns)

    def as_object(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "drifted": self.drifted}


def report_of(given: dict[str, Any]) -> DriftReport:
    """The report that `as_object` made JSON of."""
    columns = []
    for one in given["columns"]:
        shares = Shares(**one["shares"]) if one["shares"] else None
        columns.append(ColumnReport(**{**one, "shares": shares}))
    names = DriftReport.__dataclass_fields__
    return DriftReport(**{**{name: given[name] for name in names}, "columns": columns})


def cut_off(p_values: Sequence[float], rate: float) -> float:
    """The largest p-value that is a discovery, when so large a share of them may be false on average.

    Where none is a discovery, it is what the smallest would have had to be. Benjamini and Hochberg,
    Controlling the false discovery rate, J. R. Statist. Soc. B 57 (1995); it holds for independent and for
    positively dependent statistics.
    """
    n = len(p_values)
    found = [rank for rank, p in enumerate(sorted(p_values), start=1) if p <= rate * rank / n]
    return rate * max(found, default=1) / n if n else 0.0
