"""Where a feature stands, and how it is moved: the flag first, the record second."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivium.domain.rollout import Action, Decision, Stage
from trivium.errors import Conflict
from trivium.features import Feature
from trivium.flag_admin import FlagAdmin, Plan
from trivium.store.decisions import DecisionRepository
from trivium.telemetry import new_id


@dataclass(frozen=True, slots=True)
class Standing:
    """A feature's stage, since when (Unix seconds, 0 if that is not recorded), and the decision about it.

    `percent` is what the flag says; None if nobody can tell.
    """

    stage: Stage
    since: float
    decision: Decision | None
    percent: int | None

    @property
    def days(self) -> float | None:
        """How long; None if that is not recorded."""
        return (time.time() - self.since) / 86_400 if self.since else None


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The stages of all features."""

    decisions: DecisionRepository
    admin: FlagAdmin

    async def now(self, feature: Feature) -> Standing:
        """Where a feature stands: by its decisions, or before the first by what its flag says.

        Raises:
            Unavailable: the database or the flag server is away.
        """
        rollout = feature.manifest.rollout
        percent = await self.admin.percent(rollout.flag)
        latest = await self.decisions.latest(feature.name)
        if latest is None:
            return Standing(_stage_at(percent, rollout.limited_percent), 0.0, None, percent)
        began = await self.decisions.began(feature.name)
        return Standing(latest.to_stage, began.created_at if began else 0.0, latest, percent)

    async def move(
        self,
        feature: Feature,
        action: Action,
        to_stage: Stage,
        *,
        by: str,
        reason: str,
        figures: dict[str, Any],
        overridden: bool = False,
    ) -> Decision:
        """Sets the flag to a stage and records why; to hold sets nothing.

        A move that was cut off between the two leaves the flag at the new stage and no record: to repeat it
        completes it.

        Raises:
            Conflict: another moved the feature at the same time. Unavailable: database or flags are away.
        """
        standing = await self.now(feature)
        served = feature.variants[feature.manifest.serve]
        made = Decision(
            id=new_id(),
            feature=feature.name,
            action=action,
            from_stage=standing.stage,
            to_stage=to_stage,
            variant=served.name,
            version=served.version,
            decided_by=by,
            reason=reason,
            created_at=time.time(),
            overridden=overridden,
            figures=figures,
        )
        if action != "hold":
            await self.admin.apply(Plan.of(feature.manifest.rollout, to_stage))
        if not await self.decisions.add(made):
            if latest := await self.decisions.latest(feature.name):
                await self.admin.apply(Plan.of(feature.manifest.rollout, latest.to_stage))
            raise Conflict(f"{feature.name} was moved by another decision at the same time; look again")
        return made


def _stage_at(percent: int | None, limited: int) -> Stage:
    """The furthest stage whose percentage a flag reaches."""
    reached: Sequence[Stage] = [s for s in Stage if percent is not None and percent >= s.percent(limited)]
    return reached[-1] if reached else Stage.STAGING
