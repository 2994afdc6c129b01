"""`/v1/features/{feature}/status` and `/decisions`: how far a feature is, and what its figures support."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from gateway.routes.problems import PROBLEMS
from gateway.state import State, scope
from trivium.domain.inference import Arm
from trivium.domain.rollout import Decision, Stage
from trivium.domain.scorecard import Metrics
from trivium.rollouts.status import FeatureStatus
from trivium.store.keys import Key
from trivium.store.outcomes import Part

router = APIRouter(prefix="/v1/features", tags=["rollouts"], responses=PROBLEMS)
Reader = Annotated[Key, Depends(scope("infer", "admin"))]


class EstimateOut(BaseModel):
    """A figure with its 95 % interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


class MetricsOut(BaseModel):
    """The four metrics of one arm; null where nothing was counted."""

    subjects: int
    requests: int
    judged: int = Field(description="Inferences with feedback other than `shown`.")
    adoption: EstimateOut | None
    override_rate: EstimateOut | None
    p50_ms: EstimateOut | None
    p99_ms: EstimateOut | None
    error_rate: EstimateOut | None = Field(description="Degraded and failed answers.")


class PartOut(BaseModel):
    """One arm's metrics of one day (UTC), of one variant's version, or of one stage."""

    part: str
    arm: Arm
    metrics: MetricsOut


class VerdictOut(BaseModel):
    """What one metric says by its gate."""

    metric: str
    says: Literal["met", "undecided", "broken", "check", "not enough data"]
    threshold: float
    why: str


class DecisionOut(BaseModel):
    """What moved a feature from stage to stage, or kept it where it was."""

    id: str
    action: Literal["advance", "hold", "roll_back"]
    from_stage: Stage
    to_stage: Stage
    variant: str
    version: str
    decided_by: str
    reason: str
    overridden: bool = Field(description="An advance that the gates did not support.")
    created_at: datetime
    figures: dict[str, Any] = Field(description="Those that it was made from.")


class StatusOut(BaseModel):
    """A feature in its stage."""

    feature: str
    owner: str
    stage: Stage
    since: datetime | None = Field(description="Null if no decision brought it there.")
    percent: int | None = Field(description="Of the subjects for whom the flag is on; null if not known.")
    variant: str
    version: str
    counted_since: datetime
    arms: dict[Arm, MetricsOut]
    verdicts: list[VerdictOut]
    supports: Literal["advance", "hold", "roll_back"]
    why: list[str]
    decision: DecisionOut | None = Field(description="The newest.")
    parts: list[PartOut] = Field(description="With `by`: the latest 30 days, split; else empty.")


class DecisionsOut(BaseModel):
    """Decisions, the newest first."""

    decisions: list[DecisionOut]
    next: str | None = Field(description="Give it as `after` for the next page.")


@router.get("/{feature}/status")
async def feature_status(
    feature: str,
    state: State,
    _: Reader,
    by: Annotated[
        Literal["day", "variant", "stage"] | None, Query(description="Split the latest 30 days.")
    ] = None,
) -> StatusOut:
    """A feature's stage, its metrics since it came there, verdicts, and the decision that they support.

    Counted at most every ten seconds.
    """
    own = state.catalogue.get(feature)
    parts = await state.statuses.parts(own, by) if by else []
    return _status_out(await state.statuses.of(own), parts)


@router.get("/{feature}/decisions")
async def feature_decisions(
    feature: str,
    state: State,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=36, description="The `next` of the page before.")] = None,
) -> DecisionsOut:
    """What was decided about a feature, by whom, why and from which figures."""
    name = state.catalogue.get(feature).name
    found = await state.statuses.decisions.list(name, limit + 1, after)
    page = found[:limit]
    more = page[-1].id if len(found) > limit else None
    return DecisionsOut(decisions=[_decision_out(one) for one in page], next=more)


def _status_out(status: FeatureStatus, parts: list[Part]) -> StatusOut:
    standing = status.standing
    return StatusOut(
        feature=status.feature,
        owner=status.owner,
        stage=standing.stage,
        since=_time(standing.since) if standing.since else None,
        percent=standing.percent,
        variant=status.variant,
        version=status.version,
        counted_since=_time(status.since),
        arms={arm: _metrics_out(found) for arm, found in status.arms.items()},
        verdicts=[VerdictOut.model_validate(asdict(one)) for one in status.judgement.verdicts],
        supports=status.supports,
        why=status.why,
        decision=_decision_out(standing.decision) if standing.decision else None,
        parts=[PartOut(part=one.part, arm=one.arm, metrics=_metrics_out(one.metrics)) for one in parts],
    )


def _metrics_out(found: Metrics) -> MetricsOut:
    return MetricsOut.model_validate(asdict(found))


def _decision_out(made: Decision) -> DecisionOut:
    return DecisionOut.model_validate({**asdict(made), "created_at": _time(made.created_at)})


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
