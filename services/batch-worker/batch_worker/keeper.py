"""What a worker does beside chunks: begins runs that are due, wished or queued, and counts what is stored."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import structlog
from cronsim import CronSim

from trivium.domain.variants import PrecomputedVariant
from trivium.errors import Conflict, NotFound, RequestRefused, StepError, Unavailable
from trivium.features import Catalogue, Feature, LoadedVariant
from trivium.llm.batches import BatchProvider
from trivium.metrics import RESULTS, RESULTS_BYTES
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.chunks import ChunkRepository
from trivium.store.results import ResultRepository
from trivium.store.runs import RunRepository
from trivium.tracing import span

log = structlog.get_logger()
EVERY_S = 0.5
COUNT_EVERY_S = 300.0
CANCEL_EVERY_S = 5.0
REFRESH_ROWS = 256
# A run that was due while no worker was there is made good within so long.
CATCH_UP_S = 3600.0


class Keeper:
    """Looks after the runs; any number of workers may do so at once."""

    def __init__(
        self,
        catalogue: Catalogue,
        runs: RunRepository,
        results: ResultRepository,
        chunks: ChunkRepository,
        vendors: dict[str, BatchProvider],
    ) -> None:
        self._catalogue = catalogue
        self._runs = runs
        self._results = results
        self._chunks = chunks
        self._vendors = vendors
        self._seen: dict[str, datetime] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        counted = looked = -COUNT_EVERY_S
        while True:
            try:
                await self._runs.promote()
                await self._refresh()
                await self._start_due(datetime.now(UTC))
                if self._vendors and time.monotonic() > looked + CANCEL_EVERY_S:
                    await self._cancel_batches()
                    looked = time.monotonic()
                if time.monotonic() > counted + COUNT_EVERY_S:
                    await self._count()
                    counted = time.monotonic()
            except Unavailable:
                log.warning("database_away")
            await asyncio.sleep(EVERY_S)

    async def _refresh(self) -> None:
        for name, variant_name in await self._results.wanted():
            try:
                feature = self._catalogue.get(name)
                variant, _ = precomputed_variant(feature, variant_name)
            except NotFound:
                continue  # another version's; retention takes it away if that is gone
            new = new_run(
                feature, variant, {"kind": "refresh"}, trigger="refresh", force=True, max_error_ratio=1.0
            )
            while await self._runs.start_refresh(new, REFRESH_ROWS) == REFRESH_ROWS:
                pass

    async def _start_due(self, now: datetime) -> None:
        for feature in self._catalogue:
            for variant in feature.precomputed:
                if due := due_at(variant, now):
                    await self._start_scheduled(feature, variant, due)

    async def _start_scheduled(self, feature: Feature, variant: LoadedVariant, due: datetime) -> None:
        """Starts a run once, whichever worker is first: its idempotency key is the moment it was due."""
        key = f"schedule:{variant.name}:{due.isoformat()}"
        if self._seen.get(f"{feature.name}/{variant.name}") == due:
            return
        assert isinstance(variant.spec, PrecomputedVariant)
        assert variant.spec.schedule
        overlap = "queue" if variant.spec.schedule.overlap == "queue" else "refuse"
        try:
            with span(f"schedule {feature.name}", "producer", {"trivium.variant": variant.name}) as started:
                new = new_run(feature, variant, {"kind": "source"}, trigger="schedule", idempotency_key=key)
                run_id, created = await self._runs.start(new, overlap=overlap)
                started.set({"trivium.run_id": run_id, "trivium.created": created})
        except Conflict as error:
            log.warning("scheduled_run_skipped", feature=feature.name, due=due.isoformat(), why=error.detail)
        else:
            if created:
                log.info("scheduled_run_started", feature=feature.name, run=run_id, due=due.isoformat())
        self._seen[f"{feature.name}/{variant.name}"] = due

    async def _cancel_batches(self) -> None:
        """Ends the vendors' batches of runs that were cancelled or stopped."""
        for chunk_id, noted in await self._chunks.abandoned(time.time() - CATCH_UP_S):
            vendor = self._vendors.get(noted["vendor"])
            if vendor is None:
                continue
            try:
                if batch_id := noted["id"] or await vendor.find(chunk_id):
                    await vendor.cancel(batch_id)
            except StepError as error:
                log.warning("vendor_batch_not_cancelled", vendor=vendor.name, detail=error.detail)
                if not isinstance(error, RequestRefused):
                    continue
            await self._chunks.forget_place(chunk_id)

    async def _count(self) -> None:
        for stored in await self._results.stored():
            RESULTS.labels(stored.feature, stored.variant).set(stored.rows)
            RESULTS_BYTES.labels(stored.feature, stored.variant).set(stored.bytes)


def due_at(variant: LoadedVariant, now: datetime) -> datetime | None:
    """The latest moment within CATCH_UP_S at which a variant's schedule was due; None if there is none."""
    spec = variant.spec
    if not isinstance(spec, PrecomputedVariant) or spec.schedule is None:
        return None
    return latest_due(spec.schedule.cron, now)


def latest_due(cron: str, now: datetime) -> datetime | None:
    """The latest moment within CATCH_UP_S at which it was due; None if there is none."""
    latest = None
    for due in CronSim(cron, now - timedelta(seconds=CATCH_UP_S)):
        if due > now:
            break
        latest = due
    return latest
