"""The watch on drift: every feature at the moments that its manifest names, by one worker for all."""

import asyncio
import uuid
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from batch_worker.keeper import latest_due
from trivium.domain.drift import DriftReport
from trivium.drift.checking import DriftCheck, NotEnough, served_by
from trivium.errors import TriviumError
from trivium.features import Catalogue, Feature
from trivium.metrics import DRIFT_DETECTED, DRIFT_SCORE
from trivium.store.drift import DriftRepository, Served
from trivium.store.leases import LeaseRepository

log = structlog.get_logger()
LOOK_EVERY_S = 15.0
CHECK_S = 600.0
"""Longest that a check may take."""
LEASE_S = CHECK_S + 60
"""So long others are kept from it; after that the report's id sees to it that there is one."""


class DriftWatch:
    """Checks features; any number of workers may, and each check is made once."""

    def __init__(
        self,
        catalogue: Catalogue,
        check: DriftCheck,
        repository: DriftRepository,
        leases: LeaseRepository,
        name: str,
    ) -> None:
        self._catalogue = catalogue
        self._check = check
        self._repository = repository
        self._leases = leases
        self._holder = f"{name}/drift"
        self._done: dict[str, datetime] = {}
        self._shown: dict[str, set[tuple[str, str, str]]] = {}

    async def run(self) -> None:
        """Looks until cancelled; what is away is tried again at the next look."""
        try:
            while True:
                for feature in self._catalogue:
                    await self.look(feature, datetime.now(UTC))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            with suppress(TriviumError):
                await self._leases.give_up(self._holder)

    async def look(self, feature: Feature, now: datetime) -> None:
        """Makes the check that is due, if no other worker does, and shows what was found last.

        All workers show the same, whoever found it: their gauges are scraped side by side.
        """
        try:
            due = latest_due(feature.manifest.drift.cron, now)
            if due and self._done.get(feature.name) != due:
                await self._make(feature, due)
            if report := await self._repository.last_report(served_by(feature)):
                self._show(report)
        except (TriviumError, TimeoutError) as error:
            detail = error.detail if isinstance(error, TriviumError) else f"no end within {CHECK_S:g} s"
            log.warning("drift_could_not_look", feature=feature.name, detail=detail)

    async def _make(self, feature: Feature, due: datetime) -> None:
        report_id = _id_of(served_by(feature), due)
        lease = f"drift:{feature.name}"
        if await self._repository.has_report(report_id):
            self._done[feature.name] = due
        elif await self._leases.take(lease, self._holder, LEASE_S):
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._report(feature, report_id)
                self._done[feature.name] = due
            finally:
                await self._leases.give_up(self._holder)

    async def _report(self, feature: Feature, report_id: str) -> None:
        """Every inference is in one window at most: a window is whole, and begins where the last ended."""
        reference = await self._check.reference(feature)
        if isinstance(reference, NotEnough):
            return
        last = await self._repository.last_report(served_by(feature))
        report = await self._check.check(
            feature,
            reference,
            feature.manifest.drift.window,
            after=last.window_until if last else None,
            whole=True,
        )
        if isinstance(report, NotEnough) or not await self._repository.add_report(report_id, report):
            return
        drifted = {one.name: one.change for one in report.columns if one.drifted}
        if drifted:
            log.warning(
                "drift_found",
                feature=feature.name,
                variant=report.variant,
                version=report.version,
                report=report_id,
                columns=drifted,
            )

    def _show(self, report: DriftReport) -> None:
        DRIFT_DETECTED.labels(report.feature, report.variant).set(report.drifted)
        shown = {(report.feature, report.variant, column.name): column.score for column in report.columns}
        for gone in self._shown.get(report.feature, set()) - shown.keys():
            DRIFT_SCORE.remove(*gone)
        for labels, score in shown.items():
            DRIFT_SCORE.labels(*labels).set(score)
        self._shown[report.feature] = set(shown)


def _id_of(served: Served, due: datetime) -> str:
    """The same for all workers, so that a report is stored once."""
    name = f"{served.feature}/{served.variant}/{served.version}/{due.isoformat()}"
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
