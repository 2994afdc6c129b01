"""Importing a run's entities: records into the archive and their chunk beside them, in one transaction."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from trivium.domain.precompute import COMPUTE, EMBED, Batch
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import InvalidRequest
from trivium.precompute.lease import LeaseLost
from trivium.precompute.sources import Portion
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository, Claim
from trivium.store.engine import Database

MAX_TOLD = 20


class Importer:
    """Imports portions under the lease of an import chunk."""

    def __init__(self, database: Database, chunks: ChunkRepository, archive: ArchiveRepository) -> None:
        self._database = database
        self._chunks = chunks
        self._archive = archive

    async def run(self, claim: Claim, spec: PrecomputedVariant, portions: AsyncIterator[Portion]) -> int:
        """Imports all portions and ends the chunk; returns how many entities that were.

        Each portion is one transaction: after a crash the import goes on behind the last.

        Raises:
            LeaseLost: the run was cancelled, or another worker has the chunk.
        """
        phase = EMBED if spec.compute.neighbours else COMPUTE
        position = int((claim.cursor or {}).get("position", 0))
        count = 0
        async with aclosing(portions) as source:  # type: ignore[type-var]
            async for portion in source:
                position += 1
                await self._store(claim, spec, portion, phase, position)
                count += len(portion.keys)
        if not await self._chunks.checkpoint(claim, Batch(), ends=True):
            raise LeaseLost
        return count

    async def _store(
        self, claim: Claim, spec: PrecomputedVariant, portion: Portion, phase: str, position: int
    ) -> None:
        async with self._database.transaction() as connection:
            held = await self._chunks.add_imported(
                connection,
                claim,
                portion.keys,
                phase,
                position=position,
                cursor={**portion.place, "position": position},
                bad=portion.bad,
            )
            if not held:
                raise LeaseLost
            if portion.records:
                await self._archive.add(connection, spec.archive, portion.records)


async def refuse_bad_lines(portions: AsyncIterator[Portion]) -> None:
    """Reads all portions; raises InvalidRequest with the first bad lines if there is one."""
    bad: list[dict[str, Any]] = []
    count = 0
    async with aclosing(portions) as source:  # type: ignore[type-var]
        async for portion in source:
            count += len(portion.bad)
            bad += portion.bad[: MAX_TOLD - len(bad)]
    if bad:
        told = "; ".join(f"line {line['line']}: {line['message']}" for line in bad)
        more = f" (and {count - len(bad)} more)" if count > len(bad) else ""
        raise InvalidRequest(f"strict: {count} lines are wrong, so none is taken. {told}{more}")
