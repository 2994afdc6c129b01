"""What a stage measured, and whether that meets a goal."""

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from trivium.load.samples import CONNECTION, DEGRADED, NO_CONNECTION, TIMEOUT, UNSENT, Samples

NAMES = {
    TIMEOUT: "timeout",
    CONNECTION: "connection",
    NO_CONNECTION: "no_connection",
    DEGRADED: "degraded",
    UNSENT: "unsent",
    429: "refused",
    503: "refused",
    504: "expired",
}
SHED = frozenset({"ok", "late", "refused", "expired", "degraded"})
"""Outcomes of a server that works; every other is an error."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Exact, by nearest rank, in milliseconds."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float

    @classmethod
    def of(cls, values: "array[float]") -> Self | None:
        """The percentiles of samples in milliseconds; None of none."""
        if not values:
            return None
        ranked = sorted(values)
        p50, p90, p99, p99_9 = (
            round(ranked[math.ceil(len(ranked) * per_mille / 1000) - 1], 3)
            for per_mille in (500, 900, 990, 999)
        )
        return cls(len(ranked), p50, p90, p99, p99_9, round(ranked[-1], 3))


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness probe during a stage; `failed` counts probes that got no 200."""

    latency: Percentiles
    failed: int


@dataclass(frozen=True, slots=True)
class Goal:
    """What a rate must hold: the P99 in milliseconds, goodput as a share of the offered, no error."""

    p99_ms: float = 100.0
    goodput: float = 0.99


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage at one rate.

    `outcomes` counts every request that was due: ok (2xx inside the deadline), late (2xx after it),
    refused (429, 503), expired (504), degraded (a fallback's answer), error:<status>, timeout,
    connection, no_connection (the pool was full), unsent (the generator was later than the timeout).
    `latency` is of everything that the server took on: 200 in time or late, and timeouts, which
    count with the time that was waited. `refusal_latency` is of 429 and 503. `lateness` is the
    generator's own; above the plan's bound at P99, `generator_saturated` says that the figures are
    the generator's fault. `generator_cpu_us` is this process's CPU time a request.
    """

    label: str
    rate: float
    seconds: float
    started_at: str
    sent: int
    offered_per_s: float
    goodput_per_s: float
    goodput_share: float
    outcomes: dict[str, int]
    latency: Percentiles | None
    refusal_latency: Percentiles | None
    lateness: Percentiles | None
    generator_saturated: bool
    generator_cpu_us: float
    peak_connections: int
    readiness: Readiness | None = None
    rss_before_bytes: int | None = None
    rss_after_bytes: int | None = None
    interrupted: bool = field(default=False)

    @property
    def errors(self) -> dict[str, int]:
        """The counts of outcomes that no working server gives."""
        return {name: count for name, count in self.outcomes.items() if name not in SHED}

    def misses(self, goal: Goal) -> list[str]:
        """Each way in which the stage misses a goal, in words; none if it holds."""
        found = []
        if self.latency is not None and self.latency.p99_ms > goal.p99_ms:
            found.append(f"P99 {self.latency.p99_ms:.1f} ms > {goal.p99_ms:g} ms")
        if self.goodput_share < goal.goodput:
            shed = [f"{count} {name}" for name, count in self.outcomes.items() if name in SHED - {"ok"}]
            why = f" ({', '.join(shed)})" if shed else ""
            found.append(f"goodput {self.goodput_share:.1%} < {goal.goodput:.0%}{why}")
        return found + [f"{count} {name}" for name, count in self.errors.items()]


def count_outcomes(samples: Samples, deadline_ms: float) -> dict[str, int]:
    """How many requests came to what, most first."""
    counts: Counter[str] = Counter()
    for status, latency_ms in zip(samples.status, samples.latency_ms, strict=True):
        if 200 <= status < 300:
            counts["ok" if latency_ms <= deadline_ms else "late"] += 1
        else:
            counts[NAMES.get(status) or f"error:{status}"] += 1
    return dict(counts.most_common())


def latencies(samples: Samples, *, refused: bool) -> "array[float]":
    """Milliseconds of the refusals, or of what was answered or timed out."""
    return array(
        "d",
        (
            latency_ms
            for status, latency_ms in zip(samples.status, samples.latency_ms, strict=True)
            if (status in (429, 503) if refused else status == TIMEOUT or 200 <= status < 300)
        ),
    )
