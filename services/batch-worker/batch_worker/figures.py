"""What one worker reads from the database for all, and shows to Prometheus: stages, metrics, runs, costs."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from prometheus_client import Gauge

from trivium.domain.estimate import clustered_share
from trivium.domain.rollout import Stage
from trivium.domain.scorecard import MIN_JUDGED, Metrics
from trivium.errors import TriviumError
from trivium.features import Catalogue, Feature
from trivium.metrics import (
    BUDGET_LIMIT,
    COST_PROJECTED,
    FEATURE_GATE,
    FEATURE_METRIC,
    GATE_BROKEN,
    OVERRIDE_RATE_DAY,
    ROLLOUT_STAGE,
    RUN_SILENT,
    RUNS,
)
from trivium.rollouts.status import DAY_S, FeatureStatus, Sources, status_of
from trivium.store.figures import FigureRepository
from trivium.store.leases import LeaseRepository

log = structlog.get_logger()
EVERY_S = 15.0
METRICS_EVERY_S = 60.0
REST = 9.0
"""What is waited until the metrics are counted again, in multiples of what that took."""
LONGEST_S = 120.0
"""Longest that a round may take; whoever began it keeps the lease so long, and shows what it found."""
LEASE = "figures"
NAMES = ("adoption", "override_rate", "error_rate", "p99_ms")
STATES = ("queued", "running", "done", "failed", "cancelled")
Values = dict[tuple[str, ...], float]


class Sheet:
    """The gauges of one round: what the next no longer has is taken away."""

    def __init__(self) -> None:
        self._shown: dict[Gauge, set[tuple[str, ...]]] = {}

    def show(self, gauge: Gauge, values: Mapping[Any, float]) -> None:
        """Sets a gauge to these values by their tuples of labels, and to no others."""
        for gone in self._shown.get(gauge, set()) - values.keys():
            gauge.remove(*gone)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        self._shown[gauge] = set(values)

    def clear(self) -> None:
        """Shows nothing any more."""
        for gauge in self._shown:
            self.show(gauge, {})


class Figures:
    """Reads and shows; any number of workers may, and one does so at a time.

    `sources` is None where this worker is not told where the flags are: then it knows of no stage.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        routes: Callable[[], Iterable[str]],
        figures: FigureRepository,
        sources: Sources | None,
        leases: LeaseRepository,
        name: str,
    ) -> None:
        self._catalogue = catalogue
        self._routes = routes
        self._figures = figures
        self._sources = sources
        self._leases = leases
        self._holder = f"{name}/figures"
        self._sheet = Sheet()
        self._shown_at = self._metrics_due = 0.0

    async def run(self) -> None:
        """Looks until cancelled; what is away is tried again in the next round."""
        show_manifests(self._catalogue)
        try:
            while True:
                await self.look()
                await asyncio.sleep(EVERY_S)
        finally:
            self._sheet.clear()
            with suppress(TriviumError):
                await self._leases.give_up(self._holder)

    async def look(self) -> None:
        """One round, if no other worker makes it.

        Who no longer has the lease shows nothing any more, so that no old figure stands beside a new one.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_S):
                if await self._leases.take(LEASE, self._holder, LONGEST_S + 2 * EVERY_S):
                    self._shown_at = began
                    await self._read()
                else:
                    self._forget()
        except (TriviumError, TimeoutError) as error:
            detail = error.detail if isinstance(error, TriviumError) else f"no end within {LONGEST_S:g} s"
            log.warning("figures_not_read", detail=detail)
            if began > self._shown_at + LONGEST_S:
                self._forget()

    def _forget(self) -> None:
        self._sheet.clear()
        self._metrics_due = 0.0

    async def _read(self) -> None:
        runs = await self._figures.runs()
        names = [feature.name for feature in self._catalogue if feature.precomputed]
        nothing = {(name, state): 0 for name in names for state in STATES}
        self._sheet.show(RUNS, nothing | runs.counts)
        silent: Values = {(name,): runs.silent_s.get(name, 0.0) for name in {*names, *runs.silent_s}}
        self._sheet.show(RUN_SILENT, silent)
        began = time.monotonic()
        if began < self._metrics_due:
            return
        everything = [*(feature.name for feature in self._catalogue), *self._routes()]
        costs = await self._figures.month_costs(everything)
        self._sheet.show(COST_PROJECTED, {(name,): usd for name, usd in costs.items()})
        await self._read_metrics()
        self._metrics_due = time.monotonic() + max(METRICS_EVERY_S, REST * (time.monotonic() - began))

    async def _read_metrics(self) -> None:
        if self._sources is None:
            return
        shown: dict[Gauge, Values] = {
            gauge: {} for gauge in (ROLLOUT_STAGE, FEATURE_METRIC, GATE_BROKEN, OVERRIDE_RATE_DAY)
        }
        for feature in self._catalogue:
            status = await status_of(feature, self._sources)
            shown[ROLLOUT_STAGE] |= {
                (feature.name, stage.value): float(stage is status.standing.stage) for stage in Stage
            }
            shown[FEATURE_METRIC] |= metrics_of(status)
            shown[GATE_BROKEN] |= {
                (feature.name, one.metric): float(one.says == "broken") for one in status.judgement.verdicts
            }
            shown[OVERRIDE_RATE_DAY] |= await _overrides_of_the_day(feature, self._sources)
        for gauge, values in shown.items():
            self._sheet.show(gauge, values)


def metrics_of(status: FeatureStatus) -> Values:
    """The four metrics by feature, arm and metric; one of which nothing was counted is left out."""

    def each(metrics: Metrics) -> Iterable[tuple[str, float]]:
        return ((name, found.value) for name in NAMES if (found := getattr(metrics, name)) is not None)

    return {
        (status.feature, arm.value, name): value
        for arm, metrics in status.arms.items()
        for name, value in each(metrics)
    }


def show_manifests(catalogue: Catalogue) -> None:
    """Gates and budgets, which every worker knows."""
    for feature in catalogue:
        gates = feature.manifest.rollout.gates
        gated = (gates.adoption_min, gates.override_max, gates.error_rate_max, gates.p99_ms_max)
        for name, gate in zip(NAMES, gated, strict=True):
            FEATURE_GATE.labels(feature.name, name).set(gate)
        if feature.manifest.budget.monthly_usd is not None:
            BUDGET_LIMIT.labels(f"feature:{feature.name}").set(feature.manifest.budget.monthly_usd)


async def _overrides_of_the_day(feature: Feature, sources: Sources) -> Values:
    until = time.time() + 1
    slow_ms = feature.manifest.rollout.gates.p99_ms_max
    arms = await sources.outcomes.arms(feature.name, until - DAY_S, until, slow_ms)
    found: Values = {}
    for arm, outcomes in arms.items():
        rate = clustered_share(outcomes.overrides)
        if rate and outcomes.overrides.n >= MIN_JUDGED:
            found[feature.name, arm.value, "value"] = rate.value
            found[feature.name, arm.value, "low"] = rate.low
    return found
