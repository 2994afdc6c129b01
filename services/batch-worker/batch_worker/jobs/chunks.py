"""One chunk, from its claim to its results."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from batch_worker.jobs.neighbours import NeighboursJob
from trivium.domain.manifest import PrecomputedVariant
from trivium.errors import (
    ConfigurationError,
    ConnectionFailed,
    Overloaded,
    StepTimeout,
    TriviumError,
    Unavailable,
)
from trivium.features import Catalogue
from trivium.metrics import CHUNKS, RESULTS_STORED
from trivium.store.precompute import EMBED, Claim, PrecomputeRepository

log = structlog.get_logger()
# What a chunk needs is away for now: no fault of the chunk's, so it is not counted.
AWAY = (ConnectionFailed, Overloaded, StepTimeout, Unavailable)


class ChunkWorker:
    """Works on chunks; holds the lease while it does."""

    def __init__(
        self,
        ledger: PrecomputeRepository,
        catalogue: Catalogue,
        neighbours: NeighboursJob,
        lease_s: float,
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._neighbours = neighbours
        self._lease_s = lease_s

    async def work(self, chunk_id: str) -> None:
        """Claims and computes a chunk. What fails is handed back to the ledger, which counts."""
        claim = await self._ledger.claim(chunk_id, self._lease_s)
        if claim is None:
            return
        try:
            async with self._heartbeat(claim):
                written = await self._compute(claim)
        except asyncio.CancelledError:
            await asyncio.shield(self._ledger.hand_back(claim))
            raise
        except TriviumError as error:
            log.warning("chunk_failed", chunk=chunk_id, code=error.code, detail=error.detail)
            away = isinstance(error, AWAY)
            CHUNKS.labels(claim.feature, "handed_back" if away else "failed").inc()
            if away:
                await self._pause_and_hand_back(claim)
            else:
                await self._ledger.fail(claim, f"{error.code}: {error.detail}")
        except Exception as error:
            # A programming error: it is counted against the chunk, and not swallowed.
            CHUNKS.labels(claim.feature, "failed").inc()
            await self._ledger.fail(claim, f"unexpected: {type(error).__name__}")
            raise
        else:
            CHUNKS.labels(claim.feature, "done" if written else "lost").inc()

    async def _compute(self, claim: Claim) -> bool:
        spec = self._spec(claim)
        if claim.phase == EMBED:
            embeddings = await self._neighbours.embed(claim, spec)
            return await self._ledger.finish(claim, embeddings=embeddings)
        results = await self._neighbours.compare(claim, spec)
        written = await self._ledger.finish(claim, results=results)
        if written:
            RESULTS_STORED.labels(claim.feature, claim.variant).inc(len(results))
        return written

    def _spec(self, claim: Claim) -> PrecomputedVariant:
        variant = self._catalogue.get(claim.feature).variants.get(claim.variant)
        if variant is None or variant.version != claim.variant_version:
            raise ConfigurationError(
                f"The run is for {claim.variant} {claim.variant_version}, which the manifest no longer has"
            )
        assert isinstance(variant.spec, PrecomputedVariant)
        return variant.spec

    async def _pause_and_hand_back(self, claim: Claim) -> None:
        """Gives what is away a moment. With the database away, the lease ends by itself."""
        await asyncio.sleep(1.0)
        with suppress(Unavailable):
            await self._ledger.hand_back(claim)

    @asynccontextmanager
    async def _heartbeat(self, claim: Claim) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(self._lease_s / 3)
                with suppress(TriviumError):
                    await self._ledger.renew(claim, self._lease_s)

        beating: asyncio.Task[Any] = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
