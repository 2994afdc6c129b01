"""The four metrics of a feature, what they say by its gates, and the decision that they support."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trivium.domain.estimate import NOTHING, ClusterSums, Estimate, clustered_share, share
from trivium.domain.manifest import RolloutGates

Support = Literal["advance", "hold", "roll_back"]
Says = Literal["met", "undecided", "broken", "check", "not enough data"]
Metric = Literal["adoption", "override_rate", "p99_ms", "error_rate"]

SUSPICIOUS_OVERRIDES = 0.10
"""Under it, it is likelier that overrides are not captured than that hardly an answer is ever wrong."""
MIN_JUDGED = 30
"""Judged answers below which there is no verdict on overrides."""


@dataclass(frozen=True, slots=True)
class ArmOutcomes:
    """What one arm's subjects met with. Clusters are subjects.

    `errors`: degraded or failed of all requests; `slow`: those over the gate's P99; `overrides`: overridden
    of judged, that is of those with any feedback but `shown`. `interacted` subjects gave such feedback.
    """

    subjects: int = 0
    requests: int = 0
    errors: ClusterSums = NOTHING
    slow: ClusterSums = NOTHING
    overrides: ClusterSums = NOTHING
    interacted: int = 0


@dataclass(frozen=True, slots=True)
class Metrics:
    """The four metrics of one arm, each with its interval and its n; None where nothing was counted."""

    subjects: int
    requests: int
    judged: int
    adoption: Estimate | None
    override_rate: Estimate | None
    p50_ms: Estimate | None
    p99_ms: Estimate | None
    error_rate: Estimate | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one metric says: `met` or `broken` where its whole interval does, else `undecided`."""

    metric: Metric
    says: Says
    threshold: float
    estimate: Estimate | None
    why: str
    meets: bool
    """Whether the estimate itself is on the right side; never of too little data."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts, and the decision that they support with its reasons."""

    verdicts: list[Verdict]
    supports: Support
    why: list[str]


def metrics_of(arm: ArmOutcomes, p50_ms: Estimate | None, p99_ms: Estimate | None) -> Metrics:
    """The four metrics of what an arm met with, and of its latencies."""
    return Metrics(
        subjects=arm.subjects,
        requests=arm.requests,
        judged=int(arm.overrides.n),
        adoption=share(arm.interacted, arm.subjects),
        override_rate=clustered_share(arm.overrides),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        error_rate=clustered_share(arm.errors),
    )


def judge(treatment: Metrics, gates: RolloutGates, min_subjects: int) -> Judgement:
    """Holds the treatment arm's metrics against the gates.

    An advance needs every metric on the right side with enough data behind it, and none whose interval
    proves it broken. Proven overrides, latencies or errors support a way back; a lack of adoption harms
    nobody, and is a reason to hold.
    """
    enough = treatment.subjects >= min_subjects
    verdicts = [
        _verdict("adoption", treatment.adoption, gates.adoption_min, enough, least=True),
        _overrides(treatment, gates.override_max, enough),
        _verdict("p99_ms", treatment.p99_ms, gates.p99_ms_max, enough),
        _verdict("error_rate", treatment.error_rate, gates.error_rate_max, enough),
    ]
    harmful = [v for v in verdicts if v.says == "broken" and v.metric != "adoption"]
    if harmful:
        return Judgement(verdicts, "roll_back", _told(harmful))
    if not enough:
        return Judgement(
            verdicts, "hold", [f"not enough data: {treatment.subjects:,} of {min_subjects:,} subjects"]
        )
    short = [v for v in verdicts if not v.meets]
    if short:
        return Judgement(verdicts, "hold", _told(short))
    return Judgement(verdicts, "advance", ["every gate is met"])


_MEANS: dict[Metric, str] = {
    "adoption": "hard to find or not compelling",
    "override_rate": "not good enough",
    "p99_ms": "go async or faster",
    "error_rate": "not ready",
}


def _verdict(
    metric: Metric, found: Estimate | None, threshold: float, enough: bool, *, least: bool = False
) -> Verdict:
    if found is None or not enough:
        return Verdict(metric, "not enough data", threshold, found, "not enough data", meets=False)
    sign = -1 if least else 1
    worst, best = sorted((sign * found.low, sign * found.high), reverse=True)
    bound = sign * threshold
    says: Says = "met" if worst <= bound else "broken" if best > bound else "undecided"
    meets = sign * found.value <= bound
    why = "the gate is met" if meets else _MEANS[metric]
    if says == "undecided":
        why += ", by the estimate; its interval has the gate within it"
    return Verdict(metric, says, threshold, found, why, meets)


def _overrides(treatment: Metrics, threshold: float, enough: bool) -> Verdict:
    found = treatment.override_rate
    made = _verdict("override_rate", found, threshold, enough and treatment.judged >= MIN_JUDGED)
    if made.meets and found is not None and found.value < SUSPICIOUS_OVERRIDES:
        why = "perhaps measured wrongly: so few overrides are rare where they are all captured"
        return Verdict("override_rate", "check", threshold, found, why, meets=True)
    return made


def _told(verdicts: Sequence[Verdict]) -> list[str]:
    return [f"{verdict.metric}: {verdict.why}" for verdict in verdicts]
