"""The guard: takes a running stage back by itself when treatment is proven worse than control."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite

import structlog

from trivium.domain.rollout import Action, Stage
from trivium.errors import Conflict, Unavailable
from trivium.features import Feature
from trivium.metrics import GUARD_ACTIONS, GUARD_CHECKS, GUARD_LAST_LOOK, GUARD_LOWER_BOUND
from trivium.rollouts.arms import METRICS, Finding, Rules, compare
from trivium.rollouts.stages import Rollouts, Standing
from trivium.rollouts.status import GUARD
from trivium.store.attempts import AttemptRepository
from trivium.store.audit import GUARD as GUARD_ACTOR
from trivium.store.audit import AuditRepository, Outcome
from trivium.store.outcomes import OutcomeRepository

log = structlog.get_logger()
LOOK_BACK = 200
"""Decisions among which the guard looks for its own."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a stage is judged on: since when (Unix seconds), and which visit of the version this is."""

    since: float
    visit: int


@dataclass(frozen=True, slots=True)
class Guard:
    """Looks at features, one at a time; several guards must not look at one feature at once.

    `settle_s`: how long a change of a flag takes to reach every gateway, by which a window begins later.
    """

    rollouts: Rollouts
    outcomes: OutcomeRepository
    attempts: AttemptRepository
    settle_s: float
    audit: AuditRepository | None = None

    async def check(self, feature: Feature) -> Finding:
        """One look: rolls back on a proven regression, holds on a sample-ratio mismatch, each once.

        Raises:
            Unavailable: the database or the flag server is away; nothing has been recorded.
            ConfigurationError, Forbidden: flags cannot be set with what is configured.
        """
        standing = await self.rollouts.now(feature)
        finding = Finding("not_running")
        window = None
        if standing.stage.running and standing.since:
            window = await self._window(feature, standing)
            finding = await self._compared(feature, standing, window)
        _show(feature.name, finding)
        if window and finding.outcome == "regression":
            await self._act(feature, "roll_back", Stage.STAGING, finding)
        elif (
            window and finding.outcome == "sample_ratio" and not await self._held(feature.name, window.since)
        ):
            await self._act(feature, "hold", standing.stage, finding)
        return finding

    async def _window(self, feature: Feature, standing: Standing) -> Window:
        """Since the stage began; a version that came into a running stage is judged by what came after it."""
        decisions, name = self.rollouts.decisions, feature.name
        version = feature.variants[feature.manifest.serve].version
        visits = await decisions.visits(name, version, standing.stage)
        began = await decisions.began(name)
        since = standing.since + self.settle_s
        if began and began.version != version:
            first = await self.attempts.first(name, version, standing.since)
            since = max(since, time.time() if first is None else first)
        return Window(since, max(1, visits))

    async def _compared(self, feature: Feature, standing: Standing, window: Window) -> Finding:
        rollout = feature.manifest.rollout
        rules = Rules.of(rollout, standing.stage)
        if standing.percent not in (None, standing.stage.percent(rollout.limited_percent)):
            # Somebody has set the flag by hand, as a kill switch is: the shares follow no plan.
            rules = replace(rules, planned=None)
        arms = await self.outcomes.arms(feature.name, window.since, time.time(), rollout.gates.p99_ms_max)
        return compare(rules, arms, window.visit)

    async def _held(self, feature: str, since: float) -> bool:
        latest = await self.rollouts.decisions.list(feature, LOOK_BACK)
        return any(
            one.decided_by == GUARD and one.action == "hold" and one.created_at >= since for one in latest
        )

    async def _act(self, feature: Feature, action: Action, to_stage: Stage, finding: Finding) -> None:
        try:
            made = await self.rollouts.move(
                feature, action, to_stage, by=GUARD, reason=finding.reason, figures=finding.figures
            )
        except Conflict as error:
            log.warning("guard_overtaken", feature=feature.name, action=action, detail=error.detail)
            await self._enter(feature.name, action, "refused", {"why": error.detail})
            return
        moved = {"from_stage": made.from_stage.value, "to_stage": made.to_stage.value}
        await self._enter(feature.name, action, "done", {"decision": made.id, "reason": made.reason, **moved})
        GUARD_ACTIONS.labels(feature.name, action).inc()
        log.warning(
            "guard_acted",
            feature=feature.name,
            action=action,
            from_stage=made.from_stage.value,
            to_stage=made.to_stage.value,
            version=made.version,
            decision=made.id,
            reason=made.reason,
        )

    async def _enter(self, feature: str, action: Action, outcome: Outcome, detail: dict[str, str]) -> None:
        """Enters an act into the audit log; it stands as a decision even where that cannot be."""
        if self.audit is None:
            return
        try:
            await self.audit.record(GUARD_ACTOR, f"rollout.{action}", feature, outcome, detail)
        except Unavailable as error:
            log.error("not_audited", feature=feature, action=action, detail=error.detail)


def _show(feature: str, finding: Finding) -> None:
    GUARD_CHECKS.labels(feature, finding.outcome).inc()
    GUARD_LAST_LOOK.labels(feature).set_to_current_time()
    for metric in METRICS:
        bound = finding.bounds.get(metric)
        if bound and isfinite(bound.low):
            GUARD_LOWER_BOUND.labels(feature, metric).set(bound.low)
        else:
            with suppress(KeyError):
                GUARD_LOWER_BOUND.remove(feature, metric)
    log.debug("guard_looked", feature=feature, outcome=finding.outcome, **finding.figures)
