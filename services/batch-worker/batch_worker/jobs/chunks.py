"""One chunk, from its claim to its results."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog

from batch_worker.jobs.factory import JobFactory
from batch_worker.jobs.imports import Imports
from batch_worker.jobs.job import AWAY, Job, Later
from batch_worker.jobs.neighbours import NeighboursJob
from trivium.domain.precompute import COMPUTE, EMBED, IMPORT, SELECT, Batch, Dead
from trivium.errors import ConfigurationError, InvalidRequest, TriviumError, Unavailable
from trivium.features import Feature, LoadedVariant
from trivium.metrics import CHUNK_SECONDS, CHUNKS, RESULTS_STORED
from trivium.precompute.lease import LeaseLost, kept
from trivium.precompute.starting import precomputed_variant
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository, Claim
from trivium.store.results import ResultRepository
from trivium.store.runs import RunRepository
from trivium.tracing import NO_SPAN, Attributes, Span, active, span

log = structlog.get_logger()
# Leases that may end without a word (a worker died of it, perhaps) before a chunk is bisected.
MAX_LOST = 3
# Failures of a chunk as a whole before it is bisected.
MAX_FAILURES = 2
# Looks of workers that have another version of the manifest than the run.
MAX_STRANGERS = 20
STRANGER_S = 3.0
AWAY_S = 1.0
SELECTED_A_CHUNK = 512
FAILURES = frozenset({"failed", "handed_back", "lost"})
# Up to this position a phase's chunks belong to the trace of the request that asked for the run. Later ones
# have traces of their own, linked to it: a trace of all would have as many spans as the run has entities.
LAST_CHILD = 8
MAX_LINKS = 32


class ChunkWorker:
    """Works on chunks; holds the lease while it does."""

    def __init__(
        self,
        runs: RunRepository,
        chunks: ChunkRepository,
        archive: ArchiveRepository,
        results: ResultRepository,
        jobs: JobFactory,
        imports: Imports,
        lease_s: float,
        name: str,
    ) -> None:
        self._runs = runs
        self._chunks = chunks
        self._archive = archive
        self._results = results
        self._jobs = jobs
        self._imports = imports
        self._lease_s = lease_s
        self._name = name

    async def work(self, chunk_id: str) -> None:
        """Claims and computes a chunk. What fails is handed back to the ledger, which counts."""
        claim = await self._chunks.claim(chunk_id, self._lease_s, self._name)
        if claim is None:
            return
        started = time.monotonic()
        with await self._span(claim) as chunk:
            outcome = await self._outcome(claim)
            chunk.set({"trivium.outcome": outcome})
            if outcome in FAILURES:
                chunk.fail(outcome)
        CHUNKS.labels(claim.feature, outcome).inc()
        CHUNK_SECONDS.labels(claim.feature, claim.phase).observe(time.monotonic() - started)

    async def _span(self, claim: Claim) -> Span:
        """The chunk's span: within the trace of who asked, or in one of its own that is linked to them."""
        if not active():
            return NO_SPAN
        is_child = claim.traceparent is not None and claim.position <= LAST_CHILD
        links = [claim.traceparent] if claim.traceparent and not is_child else []
        if claim.traceparent is None and claim.source["kind"] == "refresh":
            with suppress(Unavailable):
                links = await self._results.origins(claim.run_id, MAX_LINKS)
        told: Attributes = {
            "trivium.feature": claim.feature,
            "trivium.variant": claim.variant,
            "trivium.version": claim.variant_version,
            "trivium.run_id": claim.run_id,
            "trivium.chunk_id": claim.chunk_id,
            "trivium.phase": claim.phase,
            "trivium.entities": len(claim.keys),
        }
        parent = claim.traceparent if is_child else None
        return span(f"{claim.phase} {claim.feature}", "consumer", told, parent=parent, links=links)

    async def _outcome(self, claim: Claim) -> str:
        """What becomes of a chunk that is worked on now."""
        try:
            async with kept(self._chunks, claim, self._lease_s):
                await self._work(claim)
        except asyncio.CancelledError:
            await asyncio.shield(self._hand_back(claim, 0.0))
            raise
        except LeaseLost:
            log.warning("lease_lost", chunk=claim.chunk_id, run=claim.run_id)
            return "lost"
        except Later as later:
            await self._hand_back(claim, later.seconds)
            return "waits"
        except AWAY as away:
            log.warning("chunk_waits", chunk=claim.chunk_id, code=away.code, detail=away.detail)
            await self._hand_back(claim, max(AWAY_S, min(away.retry_after_s or 0.0, 60.0)))
            return "handed_back"
        except (ConfigurationError, InvalidRequest) as error:
            # What could not be imported may be sent again under the same idempotency key.
            await self._runs.fail(claim.run_id, error.detail, free_key=claim.phase == IMPORT)
            return "failed"
        except Exception as error:  # noqa: BLE001 - a row may cause whatever; it is found, and told of
            await self._fail(claim, error)
            return "failed"
        return "done"

    async def _work(self, claim: Claim) -> None:
        found = self._variant(claim)
        if found is None:
            await self._leave_to_others(claim)
            return
        feature, variant = found
        if claim.phase == IMPORT:
            await self._imports.run(claim, feature, variant)
        elif claim.phase in (EMBED, SELECT):
            await self._prepare(claim, feature, variant)
        else:
            await self._compute(claim, feature, variant)

    def _variant(self, claim: Claim) -> tuple[Feature, LoadedVariant] | None:
        """The variant that a chunk is for, if this worker's manifests have it in this version."""
        with suppress(TriviumError):
            feature = self._jobs.catalogue.get(claim.feature)
            variant, _ = precomputed_variant(feature, claim.variant)
            if variant.version == claim.variant_version:
                return feature, variant
        return None

    async def _leave_to_others(self, claim: Claim) -> None:
        """In the middle of a deployment others may have the version; if nobody has, the run ends."""
        told = f"{claim.feature} {claim.variant} {claim.variant_version} is in no worker's manifests"
        if claim.failures + 1 >= MAX_STRANGERS:
            raise ConfigurationError(told)
        await self._chunks.hand_back(claim, after_s=STRANGER_S, error=told)

    async def _prepare(self, claim: Claim, feature: Feature, variant: LoadedVariant) -> None:
        job = self._jobs.neighbours(feature, variant)
        archive = self._jobs.spec_of(variant).archive
        if claim.phase == EMBED:
            batch = Batch(embeddings=await job.embed(claim.keys))
            written = await self._chunks.checkpoint(claim, batch, ends=True, archive=archive, model=job.model)
        else:
            keys = await job.select(claim)
            cuts = [keys[at : at + SELECTED_A_CHUNK] for at in range(0, len(keys), SELECTED_A_CHUNK)]
            following = [(COMPUTE, cut) for cut in cuts]
            written = await self._chunks.checkpoint(claim, Batch(), ends=True, following=following)
        if not written:
            raise LeaseLost

    async def _compute(self, claim: Claim, feature: Feature, variant: LoadedVariant) -> None:
        """Computes what is due of a chunk, portion by portion, each written as soon as it is made."""
        spec = self._jobs.spec_of(variant)
        await self._take_records_wished(claim, spec.archive)
        job = self._jobs.job(claim, feature, variant)
        at = int((claim.cursor or {}).get("at", 0))
        if claim.attempts > MAX_LOST:
            await self._bisect(claim, claim.keys[at:], "worker_lost", "every worker that held it was lost")
            return
        while True:
            end = min(at + job.rows, len(claim.keys))
            batch = await self._portion(claim, job, spec.archive, claim.keys[at:end])
            at = end
            ends = at >= len(claim.keys)
            cursor = None if ends else {**(claim.cursor or {}), "at": at}
            if not await self._chunks.checkpoint(claim, batch, ends=ends, cursor=cursor):
                raise LeaseLost
            RESULTS_STORED.labels(claim.feature, claim.variant).inc(len(batch.results))
            if ends:
                return

    async def _portion(self, claim: Claim, job: Job, archive: str, keys: Sequence[str]) -> Batch:
        # Whose neighbours are to be compared was selected: the record itself need not have changed.
        force = claim.force or isinstance(job, NeighboursJob)
        found = await self._chunks.find(claim, archive, keys, force=force)
        batch = await job.compute(claim, found.items) if found.items else Batch()
        batch.unchanged, batch.gone = found.unchanged, found.gone
        return batch

    async def _take_records_wished(self, claim: Claim, archive: str) -> None:
        """A wish may bring the entity's input, newer than the archive's."""
        if claim.source["kind"] == "refresh":
            records = await self._results.records_wished(claim.feature, claim.variant, claim.keys)
            if records:
                await self._archive.put(archive, records)

    async def _fail(self, claim: Claim, error: Exception) -> None:
        """Tries a chunk that fails as a whole once more, then bisects it: what is poisonous ends up alone."""
        code = error.code if isinstance(error, TriviumError) else "unexpected"
        detail = error.detail if isinstance(error, TriviumError) else f"{type(error).__name__}: {error}"
        log.error("chunk_failed", chunk=claim.chunk_id, run=claim.run_id, code=code, exc_info=error)
        at = int((claim.cursor or {}).get("at", 0))
        if claim.phase != COMPUTE and claim.failures + 1 >= 2 * MAX_FAILURES:
            await self._runs.fail(claim.run_id, f"{claim.phase}: {code}: {detail}")
        elif claim.phase != COMPUTE or claim.failures + 1 < MAX_FAILURES:
            await self._hand_back(claim, 0.0, f"{code}: {detail}")
        else:
            with suppress(Unavailable):  # then its lease ends, and it is tried again
                await self._bisect(claim, claim.keys[at:], code, detail)

    async def _bisect(self, claim: Claim, keys: Sequence[str], code: str, detail: str) -> None:
        if len(keys) > 1:
            await self._chunks.split(claim, f"{code}: {detail}", keys)
            return
        batch = Batch(dead=[Dead(key, None, code, detail) for key in keys])
        await self._chunks.checkpoint(claim, batch, ends=True)

    async def _hand_back(self, claim: Claim, after_s: float, error: str | None = None) -> None:
        """With the database away the lease ends by itself."""
        with suppress(Unavailable):
            await self._chunks.hand_back(claim, after_s=after_s, error=error)
