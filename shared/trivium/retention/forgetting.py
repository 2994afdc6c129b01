"""All that may go, class by class, in an order in which nothing is left behind."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import structlog

from trivium.domain.recording import Recording
from trivium.domain.variants import PrecomputedVariant
from trivium.features import Catalogue
from trivium.promotions import promotions_of
from trivium.retention.disputes import disputed
from trivium.retention.settings import RetentionSettings
from trivium.store import retention, retention_derived, retention_records
from trivium.store.engine import Database
from trivium.store.known import KnownRepository, Thing
from trivium.store.retention import DAY_S, kept_days
from trivium.store.sweeps import Place, Step, Sweep, Sweeper, distinct
from trivium.store.tables import (
    archive_embedding,
    attempt,
    decision,
    drift_reference,
    drift_report,
    inference,
    precomputed_result,
    shadow_answer,
)

log = structlog.get_logger()
SHADOW = "shadow/"
"""Before the feature's name, where the ledger has what candidates cost."""
LEASES_DAYS = 7
THOROUGH_S = 86_400.0
"""So often what was passed over once is looked at again."""
KEPT = {"archive_item": "the operator's own records: what an import brings, and takes away"}
"""Tables that retention never touches, and why."""


class Forgetting:
    """Goes through everything once a `run`; what was cut short goes on with the next.

    Between runs it remembers how far it has looked through what it does not take away.
    """

    def __init__(self, database: Database, catalogue: Catalogue, settings: RetentionSettings) -> None:
        self._database = database
        self._catalogue = catalogue
        self._settings = settings
        self._known = KnownRepository(database)
        self._seen: dict[str, Place] = {}
        self._spared: dict[str, frozenset[str]] = {}
        self._thorough_at = time.monotonic()

    async def run(self, *, dry: bool = False) -> AsyncGenerator[tuple[Sweep, Step], None]:
        """Forgets window by window, each a short transaction; `dry` only counts.

        Raises:
            Unavailable: the database is away; what was done until then holds.
        """
        if time.monotonic() > self._thorough_at + THOROUGH_S:
            self._seen.clear()
            self._spared.clear()
            self._thorough_at = time.monotonic()
        sweeper = Sweeper(self._database)
        async for sweep in self._sweeps(dry):
            async for step in sweeper.steps(sweep, self._seen.get(sweep.why), dry=dry):
                yield sweep, step
            if sweep.seen and not dry:
                self._seen[sweep.why] = sweep.seen

    async def know(self) -> None:
        """Says that a worker knows what the manifests have, so that no other takes it for gone."""
        variants, versions = self._things()
        days = self._settings
        await self._known.prolong(variants, days.retention_results_days * DAY_S)
        await self._known.prolong(versions, days.retention_drift_days * DAY_S)

    async def _sweeps(self, dry: bool) -> AsyncIterator[Sweep]:
        now, days = time.time(), self._settings
        async for sweep in self._ledger(now, dry):
            yield sweep
        for sweep in retention_derived.ended_runs(now - days.retention_runs_days * DAY_S):
            yield sweep
        yield retention_derived.refreshes(now - days.retention_runs_days * DAY_S)
        async for sweep in self._results(now, dry):
            yield sweep
        async for sweep in self._records(now, dry):
            yield sweep

    async def _ledger(self, now: float, dry: bool) -> AsyncIterator[Sweep]:
        kept: dict[str, float] = {}
        for column in (inference.c.feature, shadow_answer.c.feature, attempt.c.feature):
            for (name,) in await distinct(self._database, column):
                kept[name] = self._days(name)
        for name, days in kept.items():
            payloads_at, rows_at = now - days * DAY_S, now - kept_days(days) * DAY_S
            spared = await self._disputed(name, payloads_at, dry)
            since = rows_at
            if spared:
                # What nobody decides goes nevertheless, later.
                longer = now - (days + self._settings.retention_disputed_days) * DAY_S
                since = min(rows_at, longer)
                yield retention.inferences(name, since)
                late = retention.payloads(name, longer, since=since)
                yield replace(late, why=f"undecided disputes of {name}", seen=None)
            yield retention.inferences(name, rows_at, spared)
            yield retention.payloads(name, payloads_at, spared, since)
            yield retention.shadows(name, rows_at)
            yield retention.shadow_outputs(name, payloads_at, rows_at)
            yield retention.attempts_left(name, rows_at)
        yield retention.feedback_left(now - self._settings.retention_orphans_days * DAY_S)

    def _days(self, name: str) -> float:
        """Of a feature by its manifest; of routes, and of what is no feature any more, the default."""
        own = {feature.name: feature.manifest.recording.retention_days for feature in self._catalogue}
        return float(own.get(name.removeprefix(SHADOW), Recording().retention_days))

    async def _disputed(self, name: str, before: float, dry: bool) -> frozenset[str]:
        features = {feature.name: feature for feature in self._catalogue}
        if name not in features or not self._settings.retention_disputed_days:
            return frozenset()
        after = self._seen.get(retention.payloads(name, before).why)
        found = await disputed(self._database, features[name], before, after)
        self._spared[name] = self._spared.get(name, frozenset()) | found
        if found and not dry:
            log.warning("disputes_wait_for_review", feature=name, inferences=len(found))
        return self._spared[name]

    async def _results(self, now: float, dry: bool) -> AsyncIterator[Sweep]:
        days = self._settings.retention_results_days
        own, before = precomputed_result.c, now - days * DAY_S
        stored = [("result", *pair) for pair in await distinct(self._database, own.feature, own.variant)]
        specs = {
            ("result", feature.name, one.name): one.spec
            for feature in self._catalogue
            for one in feature.precomputed
        }
        strange = [thing for thing in stored if thing not in specs]
        for _, feature, variant in await self._known.unknown(strange, days * DAY_S, dry=dry):
            yield retention_derived.results_of_gone_variant(feature, variant)
        for thing in stored:
            if isinstance(spec := specs.get(thing), PrecomputedVariant):
                hard = now - spec.hard_max_age_s
                yield retention_derived.results_past_use(thing[1], thing[2], spec.archive, hard, before)
        for (archive,) in await distinct(self._database, archive_embedding.c.archive):
            models = {
                spec.compute.neighbours.model
                for spec in specs.values()
                if isinstance(spec, PrecomputedVariant)
                and spec.archive == archive
                and spec.compute.neighbours
            }
            yield retention_derived.embeddings(archive, models, before)

    async def _records(self, now: float, dry: bool) -> AsyncIterator[Sweep]:
        days, records = self._settings, retention_records
        promoted = {
            one.evaluation["id"]
            for feature in self._catalogue
            for one in promotions_of(feature.folder).values()
            if "id" in one.evaluation
        }
        yield records.evaluations(now - days.retention_evaluations_days * DAY_S, promoted)
        decided_at = now - days.retention_decisions_days * DAY_S
        for (feature,) in await distinct(self._database, decision.c.feature):
            yield records.decisions(feature, decided_at)
        yield records.reviews(decided_at)
        drift_at = now - days.retention_drift_days * DAY_S
        for (feature,) in await distinct(self._database, drift_report.c.feature):
            yield records.drift_reports(feature, drift_at)
        async for sweep in self._references(dry):
            yield sweep
        yield records.audit_events(now - days.retention_audit_days * DAY_S)
        yield records.keys(now - days.retention_keys_days * DAY_S)
        yield records.leases(now - LEASES_DAYS * DAY_S)

    async def _references(self, dry: bool) -> AsyncIterator[Sweep]:
        own, versions = drift_reference.c, set(self._things()[1])
        stored = await distinct(self._database, own.feature, own.variant, own.version)
        strange = [thing for thing in (("reference", *one) for one in stored) if thing not in versions]
        seconds = self._settings.retention_drift_days * DAY_S
        for _, feature, variant, version in await self._known.unknown(strange, seconds, dry=dry):
            yield retention_derived.reference_of_gone_version(feature, variant, version)

    def _things(self) -> tuple[list[Thing], list[Thing]]:
        """The pre-computed variants, and the versions of all variants, of the manifests."""
        variants: list[Thing] = []
        versions: list[Thing] = []
        for feature in self._catalogue:
            variants += [("result", feature.name, one.name) for one in feature.precomputed]
            versions += [("reference", feature.name, n, one.version) for n, one in feature.variants.items()]
        return variants, versions
