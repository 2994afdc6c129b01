"""What a feature shows in its stage, what follows from that, and whether an advance may be made."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from trivium.domain.inference import Arm
from trivium.domain.rollout import Stage
from trivium.domain.scorecard import Judgement, Metrics, Verdict, judge
from trivium.features import Feature
from trivium.promotions import unpromoted
from trivium.rollouts.stages import Rollouts, Standing
from trivium.store.outcomes import OutcomeRepository

WINDOW_DAYS = 30
"""Further back nothing is counted: a stage that lasts is judged by its latest month."""
GUARD = "guard"
"""Who decides where nobody does."""
NOTHING = Metrics(0, 0, 0, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class FeatureStatus:
    """A feature in its stage. `refused` says why an advance is not to be made; empty if it may be."""

    feature: str
    owner: str
    variant: str
    version: str
    standing: Standing
    since: float
    until: float
    arms: dict[Arm, Metrics]
    judgement: Judgement
    refused: list[str]

    @property
    def treatment(self) -> Metrics:
        """The metrics of those who get the AI."""
        return self.arms.get(Arm.TREATMENT, NOTHING)

    @property
    def supports(self) -> str:
        """advance, hold or roll_back; an advance that is refused is a hold."""
        refused = self.judgement.supports == "advance" and self.refused
        return "hold" if refused else self.judgement.supports

    @property
    def why(self) -> list[str]:
        """The reasons of what is supported."""
        refused = self.judgement.supports == "advance" and self.refused
        return self.refused if refused else self.judgement.why

    def figures(self) -> dict[str, Any]:
        """What a decision is recorded with, as JSON."""
        return {
            "since": self.since,
            "until": self.until,
            "percent": self.standing.percent,
            "arms": {arm.value: asdict(metrics) for arm, metrics in self.arms.items()},
            "verdicts": [asdict(verdict) for verdict in self.judgement.verdicts],
            "supports": self.supports,
            "why": self.why,
        }


async def status_of(feature: Feature, rollouts: Rollouts, outcomes: OutcomeRepository) -> FeatureStatus:
    """Where a feature stands and what it shows since it came there, at most for WINDOW_DAYS.

    Raises:
        Unavailable: the database or the flag server is away.
    """
    manifest = feature.manifest
    standing = await rollouts.now(feature)
    until = time.time() + 1
    since = max(standing.since, until - WINDOW_DAYS * 86_400)
    arms = await outcomes.metrics(feature.name, since, until, manifest.rollout.gates.p99_ms_max)
    judgement = judge(arms.get(Arm.TREATMENT, NOTHING), manifest.rollout.gates, manifest.rollout.min_subjects)
    if standing.stage is Stage.STAGING:
        # Nobody has it yet, or a few who test it: what stands before `limited` is the evaluation.
        judgement = Judgement(judgement.verdicts, "advance", ["nothing is asked of staging but a promotion"])
    served = feature.variants[manifest.serve]
    return FeatureStatus(
        feature.name,
        manifest.owner,
        served.name,
        served.version,
        standing,
        since,
        until,
        arms,
        judgement,
        _refused(feature, standing),
    )


def _refused(feature: Feature, standing: Standing) -> list[str]:
    found = []
    if standing.stage is Stage.GA:
        found.append("ga is the last stage")
    elif missing := unpromoted(feature):
        found.append(missing)
    latest = standing.decision
    if latest and latest.action == "hold" and latest.decided_by == GUARD:
        found.append(f"the guard holds it: {latest.reason}")
    return found


def verdict_line(verdict: Verdict) -> str:
    """One verdict in words, with its figures."""
    found = verdict.estimate
    if found is None:
        return f"{verdict.metric}: {verdict.why}"
    low, value, high = (shown(verdict.metric, x) for x in (found.low, found.value, found.high))
    gate = shown(verdict.metric, verdict.threshold)
    return f"{verdict.metric} {value} ({low} to {high}, n {found.n:,}), gate {gate}: {verdict.why}"


def shown(metric: str, value: float) -> str:
    """A figure as people read it: milliseconds, or per cent."""
    return f"{value:,.0f} ms" if metric.endswith("_ms") else f"{value:.1%}"
