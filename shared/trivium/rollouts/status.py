"""What a feature shows in its stage, what follows from that, and whether an advance may be made."""

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from trivium.domain.inference import Arm
from trivium.domain.rollout import Stage
from trivium.domain.scorecard import Judgement, Metrics, Verdict, judge
from trivium.features import Feature
from trivium.promotions import unpromoted
from trivium.rollouts.stages import Rollouts, Standing
from trivium.store.attempts import AttemptRepository
from trivium.store.outcomes import OutcomeRepository, Part

DAY_S = 86_400
MOST_MOVES = 50
WINDOW_DAYS = 30
"""Further back nothing is counted: a stage that lasts is judged by its latest month."""
GUARD = "guard"
"""Who decides where nobody does."""
NOTHING = Metrics(0, 0, 0, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where what a status says is read."""

    rollouts: Rollouts
    outcomes: OutcomeRepository
    attempts: AttemptRepository


@dataclass(frozen=True, slots=True)
class FeatureStatus:
    """A feature in its stage. `refused` says why an advance is not to be made; empty if it may be.

    `barred` are those of the reasons that cannot be overridden.
    """

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
    barred: list[str]

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


async def status_of(feature: Feature, sources: Sources, standing: Standing | None = None) -> FeatureStatus:
    """Where a feature stands and what it shows since it came there, at most for WINDOW_DAYS.

    Args:
        feature: the feature.
        sources: where that is read.
        standing: where it stands, if that is known.

    Raises:
        Unavailable: the database or the flag server is away.
    """
    manifest = feature.manifest
    standing = standing or await sources.rollouts.now(feature)
    until = time.time() + 1
    since = max(await _since(feature, sources, standing), until - WINDOW_DAYS * DAY_S)
    arms = await sources.outcomes.metrics(feature.name, since, until, manifest.rollout.gates.p99_ms_max)
    judgement = judge(arms.get(Arm.TREATMENT, NOTHING), manifest.rollout.gates, manifest.rollout.min_subjects)
    served = feature.variants[manifest.serve]
    barred = _barred(feature, standing)
    return FeatureStatus(
        feature.name,
        manifest.owner,
        served.name,
        served.version,
        standing,
        since,
        until,
        arms,
        _in_staging(judgement) if standing.stage is Stage.STAGING else judgement,
        [*barred, *_held(standing)],
        barred,
    )


async def parts_of(feature: Feature, sources: Sources, by: str) -> list[Part]:
    """The metrics of the latest WINDOW_DAYS by `day` (UTC), `variant` and version, or `stage`, of both arms.

    Raises:
        Unavailable: the database is away.
    """
    until = time.time() + 1
    since = until - WINDOW_DAYS * DAY_S
    window = feature.name, since, until, feature.manifest.rollout.gates.p99_ms_max
    if by == "day":
        days = await sources.outcomes.parts(*window, "day")
        return [replace(one, part=_date(float(one.part) * DAY_S)[:10]) for one in days]
    if by == "variant":
        return await sources.outcomes.parts(*window, "variant")
    moves = await sources.rollouts.decisions.moves(feature.name, MOST_MOVES)
    spans = [(one.created_at, f"{_date(one.created_at)} {one.to_stage.value}") for one in moves]
    stages = await sources.outcomes.parts(*window, spans)
    return [replace(one, part=one.part or "before") for one in stages]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")[:19]


async def _since(feature: Feature, sources: Sources, standing: Standing) -> float:
    """A version that came into a running stage is judged by what came after it was first tried."""
    version = feature.variants[feature.manifest.serve].version
    if standing.version is None or standing.version == version:
        return standing.since
    first = await sources.attempts.first(feature.name, version, standing.since)
    return time.time() if first is None else first


def _in_staging(judgement: Judgement) -> Judgement:
    """Nobody has it yet, or a few who test it: what stands before `limited` is the evaluation."""
    if judgement.supports == "roll_back":
        return Judgement(judgement.verdicts, "hold", judgement.why)
    return Judgement(judgement.verdicts, "advance", ["nothing is asked of staging but a promotion"])


def _barred(feature: Feature, standing: Standing) -> list[str]:
    if standing.stage is Stage.GA:
        return ["ga is the last stage"]
    missing = unpromoted(feature)
    return [missing] if missing else []


def _held(standing: Standing) -> list[str]:
    latest = standing.decision
    if latest and latest.action == "hold" and latest.decided_by == GUARD:
        return [f"the guard holds it: {latest.reason}"]
    return []


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
