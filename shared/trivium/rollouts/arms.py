"""What two arms prove: nothing yet, a regression, or that they are not the arms that they should be.

Plain arithmetic over what both arms did, so that a simulation judges by the very same code as the guard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from trivium.domain.inference import Arm
from trivium.domain.manifest import Rollout
from trivium.domain.rollout import Stage
from trivium.domain.scorecard import ArmOutcomes
from trivium.domain.sequential import (
    TIGHTEST_AT,
    Bound,
    SampleRatio,
    alpha_of,
    lower_bound,
    sample_ratio,
)

Outcome = Literal["not_running", "not_enough", "fine", "sample_ratio", "regression"]

METRICS = ("errors", "slow", "overrides")

SLOW_MARGIN = 0.01
"""Requests over the gate's P99 beyond control's: a P99 lets one in a hundred be slower."""

OVERRIDE_MARGIN = 0.0
"""The AI is not to be put right more often than the non-AI version."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a stage is judged. `margins` by metric; `planned` is None where the arms were not drawn by lot.

    `always` subjects may be in treatment whatever the lot says.
    """

    margins: dict[str, float]
    min_subjects: int
    planned: float | None
    always: int = 0

    @classmethod
    def of(cls, rollout: Rollout, stage: Stage) -> "Rules":
        """Those of a manifest.

        Who has opted in, and stays in through all stages, is no random sample: their share follows no plan,
        and they may correct more than others whatever they are shown. Errors and slowness are still the AI's.
        """
        margins = {"errors": rollout.gates.error_rate_max, "slow": SLOW_MARGIN}
        if rollout.limited_cohort:
            return cls(margins, rollout.min_subjects, None)
        margins["overrides"] = OVERRIDE_MARGIN
        planned = stage.percent(rollout.limited_percent) / 100
        return cls(margins, rollout.min_subjects, planned, len(rollout.staging_subjects))


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at a feature found. `subjects` by arm."""

    outcome: Outcome
    subjects: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)
    ratio: SampleRatio | None = None

    @property
    def proven(self) -> list[str]:
        """The metrics in which treatment is proven worse."""
        return [metric for metric, bound in self.bounds.items() if bound.proven]

    @property
    def reason(self) -> str:
        """For a decision's record; empty where there is nothing to decide."""
        if self.outcome == "regression":
            return "; ".join(_told(metric, self.bounds[metric]) for metric in self.proven)
        if self.outcome == "sample_ratio" and self.ratio:
            told = f"{self.ratio.share:.1%} of {self.ratio.n:,} subjects are in treatment"
            return f"{told}, where {self.ratio.planned:.0%} should be: the arms cannot be compared"
        return ""

    @property
    def figures(self) -> dict[str, Any]:
        """What it was found from, as JSON."""
        found: dict[str, Any] = {"subjects": self.subjects, "bounds": {}}
        for metric, bound in self.bounds.items():
            found["bounds"][metric] = {
                "treatment": bound.treatment,
                "control": bound.control,
                "difference": bound.difference,
                "low": bound.low if isfinite(bound.low) else None,
                "margin": bound.margin,
                "alpha": bound.alpha,
            }
        if self.ratio:
            found["sample_ratio"] = {
                "treated": self.ratio.treated,
                "n": self.ratio.n,
                "planned": self.ratio.planned,
                "log_evidence": self.ratio.evidence,
                "alpha": self.ratio.alpha,
            }
        return found


def compare(rules: Rules, arms: Mapping[Arm, ArmOutcomes], visit: int = 1) -> Finding:
    """Compares what both arms have done since a stage began.

    A regression goes before a mismatch: to roll back is safe, whoever is in which arm.

    Args:
        rules: the stage's.
        arms: what both arms did at the same time.
        visit: how often this version has come to this stage.
    """
    treatment, control = (arms.get(arm, ArmOutcomes()) for arm in (Arm.TREATMENT, Arm.CONTROL))
    subjects = {"treatment": treatment.subjects, "control": control.subjects}
    ratio = _ratio(rules, treatment.subjects, control.subjects, visit)
    mismatch = ratio is not None and ratio.mismatch
    if min(treatment.subjects, control.subjects) < rules.min_subjects:
        # An arm that stays empty is a mismatch too, and would never reach the minimum.
        return Finding("sample_ratio" if mismatch else "not_enough", subjects, {}, ratio)
    bounds = {
        metric: lower_bound(
            getattr(treatment, metric),
            getattr(control, metric),
            margin=margin,
            alpha=alpha_of(metric, visit),
            tightest_at=TIGHTEST_AT * rules.min_subjects,
        )
        for metric, margin in rules.margins.items()
    }
    if any(bound.proven for bound in bounds.values()):
        return Finding("regression", subjects, bounds, ratio)
    return Finding("sample_ratio" if mismatch else "fine", subjects, bounds, ratio)


def _ratio(rules: Rules, treated: int, control: int, visit: int) -> SampleRatio | None:
    """The test of the share, in the plan's favour: which of those always in treatment came is not known."""
    if rules.planned is None:
        return None
    planned = round(rules.planned * (treated + control))
    drawn = max(treated - rules.always, min(treated, planned))
    return sample_ratio(drawn, control, rules.planned, alpha_of("sample_ratio", visit))


def _told(metric: str, bound: Bound) -> str:
    said = f"{metric} {bound.treatment:.2%} in treatment, {bound.control:.2%} in control"
    return f"{said}: at least {bound.low:.2%} more, {bound.margin:.2%} is borne"
