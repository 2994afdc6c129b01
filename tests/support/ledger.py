"""Runs whose import a test plays itself."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select

from trivium.domain.precompute import COMPUTE, Batch, Dead, Item, Result
from trivium.store.archive import ArchiveRepository, input_hash
from trivium.store.chunks import ChunkRepository, Claim
from trivium.store.engine import Database
from trivium.store.runs import NewRun, RunProgress, RunRepository

ARCHIVE = "inbox"


def keys_of(count: int) -> list[str]:
    """Keys in order."""
    return [f"K-{n:05d}" for n in range(count)]


def record_of(key: str) -> dict[str, Any]:
    """What a key's record is, unless a test says otherwise."""
    return {"text": f"text of {key}"}


def item_of(key: str) -> Item:
    """A key's item."""
    return Item(key, record_of(key), input_hash(record_of(key)))


def results_of(keys: Sequence[str], label: str = "x") -> Batch:
    """A batch with a result for every key."""
    return Batch(results=[Result(item_of(key), {"label": label}) for key in keys])


def dead_of(keys: Sequence[str], code: str = "refused", abstained: bool = False) -> Batch:
    """A batch in which every key is dead."""
    return Batch(dead=[Dead(key, None, code, "because", abstained) for key in keys])


class Ledger:
    """A feature's runs, chunks and archive on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = RunRepository(database)
        self.chunks = ChunkRepository(database)
        self.archive = ArchiveRepository(database)

    async def start(
        self, count: int, size: int, *, phase: str = COMPUTE, overlap: str = "refuse", **options: Any
    ) -> str:
        """A run over `count` entities in chunks of `size`, imported."""
        values: dict[str, Any] = {"variant": "stored", "variant_version": "v1", "source": {"kind": "body"}}
        new = NewRun("triage", **{**values, **options})
        run_id, _ = await self.runs.start(new, overlap=overlap, lease_s=60)
        claim = await self.chunks.held_import(run_id)
        keys = keys_of(count)
        await self.archive.put(ARCHIVE, {key: record_of(key) for key in keys})
        for position, at in enumerate(range(0, count, size), start=1):
            async with self.database.transaction() as connection:
                assert await self.chunks.add_imported(
                    connection, claim, keys[at : at + size], phase, position=position, cursor={"line": at}
                )
        assert await self.chunks.checkpoint(claim, Batch(), ends=True)
        return run_id

    async def claim_all(self, lease_s: float = 60) -> list[Claim]:
        """Claims of every chunk that is free."""
        ringing = await self.chunks.to_ring(1_000)
        claims = [await self.chunks.claim(chunk_id, lease_s) for chunk_id, _ in ringing]
        return [claim for claim in claims if claim]

    async def claim(self, lease_s: float = 60) -> Claim:
        """A claim of the chunk that is first."""
        ((chunk_id, _), *_) = await self.chunks.to_ring(1)
        claim = await self.chunks.claim(chunk_id, lease_s)
        assert claim is not None
        return claim

    async def finish(self, claim: Claim, batch: Batch | None = None) -> bool:
        """Ends a chunk, by default with a result for every key."""
        return await self.chunks.checkpoint(claim, batch or results_of(claim.keys), ends=True)

    async def progress(self, run_id: str) -> RunProgress:
        """How far a run is."""
        return await self.runs.progress(run_id)

    async def count(self, table: Any) -> int:
        """Rows of a table."""
        async with self.database.transaction() as connection:
            return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())
