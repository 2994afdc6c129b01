"""Where a feature stands, and how it is moved: the flag first, the record second."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from trivium.domain.rollout import Action, Decision, Stage
from trivium.errors import Conflict, Unavailable
from trivium.features import Feature
from trivium.flag_admin import FlagAdmin, Plan
from trivium.store.decisions import DecisionRepository
from trivium.telemetry import new_id

log = structlog.get_logger()
MOST_RACES = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A feature's stage, since when (Unix seconds, 0 if that is not recorded), and the decision about it.

    `percent` is what the flag says; None if nobody can tell. `version` is that which came into the stage;
    None if that is not recorded.
    """

    stage: Stage
    since: float
    decision: Decision | None
    percent: int | None
    version: str | None = None

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
        return await self.standing(feature, await self.admin.percent(feature.manifest.rollout.flag))

    async def standing(self, feature: Feature, percent: int | None) -> Standing:
        """As `now`, where the flag's percentage is known; raises Unavailable."""
        latest = await self.decisions.latest(feature.name)
        if latest is None:
            limited = feature.manifest.rollout.limited_percent
            return Standing(_stage_at(percent, limited), 0.0, None, percent)
        began = await self.decisions.began(feature.name)
        since, version = (began.created_at, began.version) if began else (0.0, None)
        return Standing(latest.to_stage, since, latest, percent, version)

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
        if action != "hold":
            await self.switch(feature, to_stage)
        return await self.record(
            feature, standing, action, to_stage, by=by, reason=reason, figures=figures, overridden=overridden
        )

    async def switch(self, feature: Feature, to_stage: Stage) -> None:
        """Sets the flag alone; what may raise is the flag admin's."""
        await self.admin.apply(Plan.of(feature.manifest.rollout, to_stage))

    async def record(
        self,
        feature: Feature,
        standing: Standing,
        action: Action,
        to_stage: Stage,
        *,
        by: str,
        reason: str,
        figures: dict[str, Any],
        overridden: bool = False,
    ) -> Decision:
        """Records a move from where a feature stood, after the flag was set.

        A way back wins over an advance that another made meanwhile; any other move gives way to the other.

        Raises:
            Conflict: another moved the feature meanwhile; the flag is as the other has it. Unavailable: the
            database is away.
        """
        served = feature.variants[feature.manifest.serve]
        from_stage = standing.stage
        for _ in range(MOST_RACES):
            made = Decision(
                id=new_id(),
                feature=feature.name,
                action=action,
                from_stage=from_stage,
                to_stage=to_stage,
                variant=served.name,
                version=served.version,
                decided_by=by,
                reason=reason,
                created_at=time.time(),
                overridden=overridden,
                figures=figures,
            )
            if stored := await self.decisions.add(made):
                if action != "hold":
                    await self._agree(feature)
                return stored
            latest = await self.decisions.latest(feature.name)
            if latest is None or action != "roll_back" or not to_stage.before(latest.to_stage):
                break
            from_stage = latest.to_stage
            await self.switch(feature, to_stage)
        if action != "hold":
            await self._agree(feature)
        raise Conflict(f"{feature.name} was moved by another decision at the same time; look again")

    async def _agree(self, feature: Feature) -> None:
        """Sets the flag to what the newest decision says, until that is still the newest afterwards.

        Whoever has moved a feature, or has failed to, ends with this: so whoever sets the flag last has seen
        the newest decision, in whatever order the others did their parts.
        """
        latest = await self.decisions.latest(feature.name)
        for _ in range(MOST_RACES):
            if latest is None:
                return
            try:
                await self.switch(feature, latest.to_stage)
            except Unavailable as error:
                # It was set before the record; what another has set meanwhile shows as a difference.
                log.warning("flag_not_checked", feature=feature.name, detail=error.detail)
                return
            seen, latest = latest, await self.decisions.latest(feature.name)
            if latest is None or latest.id == seen.id:
                return


def _stage_at(percent: int | None, limited: int) -> Stage:
    """The furthest stage whose percentage a flag reaches."""
    reached: Sequence[Stage] = [s for s in Stage if percent is not None and percent >= s.percent(limited)]
    return reached[-1] if reached else Stage.STAGING
