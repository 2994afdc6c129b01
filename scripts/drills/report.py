"""The drill's tables, on a terminal and in the documentation."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drills.faults import Fault
from drills.load import Outcome
from drills.usage import Usage
from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- made by `make drill` -->", "<!-- end of what `make drill` made -->"
OUTCOMES: tuple[Outcome, ...] = ("answered", "degraded", "refused", "failed", "late", "hung")
COLUMNS = ("part", "fault", *OUTCOMES, "lost", "recovered")


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the requests of one fault's time; `recovery_s` is inf if it did not end."""

    part: str
    kind: str
    outcomes: Mapping[Outcome, int]
    lost: int
    recovery_s: float
    why: Mapping[str, int] = field(default_factory=dict)
    missing: str | None = None

    @classmethod
    def skipped(cls, fault: Fault, why: str) -> "Row":
        """Of a fault that this machine does not allow."""
        return cls(fault.part, fault.kind, Counter(), 0, 0.0, missing=why)

    def cells(self) -> list[str]:
        """As they stand in a table."""
        if self.missing:
            return [self.part, self.kind, f"skipped: {self.missing}", *[""] * (len(COLUMNS) - 3)]
        recovered = "no" if math.isinf(self.recovery_s) else f"{self.recovery_s:.1f} s"
        counts = [f"{self.outcomes.get(outcome, 0):,}" for outcome in OUTCOMES]
        return [self.part, self.kind, *counts, f"{self.lost:,}", recovered]


def problems(rows: Sequence[Row]) -> list[str]:
    """What must not be, one sentence each."""
    found = []
    for row in rows:
        name = f"{row.part}, {row.kind}"
        if hung := row.outcomes.get("hung"):
            found.append(f"{name}: {hung} requests hung")
        if row.lost:
            found.append(f"{name}: {row.lost} acknowledged records were lost")
        if math.isinf(row.recovery_s):
            found.append(f"{name}: it did not recover")
    return found


def print_rows(console: Console, rows: Sequence[Row], idle: Sequence[Usage], busy: Sequence[Usage]) -> None:
    """Both tables."""
    table = Table(*COLUMNS, "why")
    for row in rows:
        why = ", ".join(f"{reason} {count}" for reason, count in Counter(row.why).most_common(4))
        table.add_row(*row.cells(), why)
    console.print(table)
    used = Table("part", "CPU at rest", "MB at rest", "CPU under load", "MB under load")
    for cells in _used(idle, busy):
        used.add_row(*cells)
    console.print(used)


def written(
    text: str, rows: Sequence[Row], idle: Sequence[Usage], busy: Sequence[Usage], fault_s: float
) -> str:
    """A document with the tables between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = [
        BEGIN,
        "",
        f"Each fault lasted {fault_s:g} s.",
        "",
        *_markdown(COLUMNS, [row.cells() for row in rows]),
        "",
        *_markdown(
            ("part", "CPU at rest", "MB at rest", "CPU under load", "MB under load"), _used(idle, busy)
        ),
        "",
    ]
    return before + "\n".join(lines) + END + after


def _used(idle: Sequence[Usage], busy: Sequence[Usage]) -> list[list[str]]:
    return [
        [a.part, f"{a.cpu_share:.1%}", f"{a.memory_mb:,.0f}", f"{b.cpu_share:.1%}", f"{b.memory_mb:,.0f}"]
        for a, b in zip(idle, busy, strict=True)
    ]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
