"""Runs and chunks: the ledger of pre-computation.

A chunk is claimed with a lease and a fencing token. Its results and its `done` are written in one
transaction that demands the token, so a worker that lost its lease writes nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database, in_batches
from trivium.store.tables import (
    archive_embedding,
    precompute_chunk,
    precompute_run,
    precomputed_result,
)
from trivium.telemetry import new_id

Row = dict[str, Any]
MAX_FAILURES = 3
# Of a run over neighbours: embed every record, then compare all.
EMBED, COMPARE = "embed", "compare"
PHASES = (EMBED, COMPARE)


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk that this worker holds until its lease ends."""

    chunk_id: str
    token: int
    run_id: str
    phase: str
    first_key: str
    last_key: str
    feature: str
    variant: str
    variant_version: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; `done` and `total` count entities over both phases."""

    run_id: str
    state: str
    phase: str
    done: int
    total: int
    error: str | None


class PrecomputeRepository:
    """Runs and chunks in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self,
        feature: str,
        variant: str,
        version: str,
        keys: list[str],
        phases: tuple[str, ...],
        chunk_size: int,
    ) -> str:
        """Stores a run with the chunks of its phases; returns its id.

        A running run of the same variant version is returned instead of a second one.
        """
        run, now = precompute_run.c, time.time()
        async with self._database.transaction() as connection:
            await self._database.serialise(connection, precompute_run)
            running = select(run.id).where(
                run.feature == feature, run.variant_version == version, run.state == "running"
            )
            if found := (await connection.execute(running)).scalar():
                return str(found)
            run_id = new_id()
            row = {
                "id": run_id,
                "feature": feature,
                "variant": variant,
                "variant_version": version,
                "state": "running" if keys else "done",
                "phase": phases[0],
                "entities": len(keys),
                "created_at": now,
                "finished_at": None if keys else now,
            }
            await connection.execute(insert(precompute_run), row)
            cuts = [keys[at : at + chunk_size] for at in range(0, len(keys), chunk_size)]
            chunks = [_chunk(run_id, phase, cut) for phase in phases for cut in cuts]
            for batch in in_batches(chunks):
                await connection.execute(insert(precompute_chunk), batch)
            return run_id

    async def to_ring(self, limit: int, now: float) -> list[tuple[str, int]]:
        """Chunks of the running phases that wait or whose lease has ended: (id, token)."""
        run, chunk = precompute_run.c, precompute_chunk.c
        statement = (
            select(chunk.id, chunk.token)
            .join(precompute_run, run.id == chunk.run_id)
            .where(run.state == "running", chunk.phase == run.phase, _free(now))
            .order_by(chunk.id)
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            return [(row.id, row.token) for row in await connection.execute(statement)]

    async def claim(self, chunk_id: str, lease_s: float) -> Claim | None:
        """Takes a free chunk of a running phase; None if another has it or it is done."""
        now = time.time()
        run, chunk = precompute_run.c, precompute_chunk.c
        its_turn = select(run.id).where(
            run.id == chunk.run_id, run.state == "running", run.phase == chunk.phase
        )
        statement = (
            update(precompute_chunk)
            .where(chunk.id == chunk_id, _free(now), its_turn.exists())
            .values(state="leased", token=chunk.token + 1, lease_until=now + lease_s)
            .returning(chunk.token, chunk.run_id, chunk.phase, chunk.first_key, chunk.last_key)
        )
        async with self._database.transaction() as connection:
            taken = (await connection.execute(statement)).first()
            if not taken:
                return None
            of = select(run.feature, run.variant, run.variant_version).where(run.id == taken.run_id)
            owner = (await connection.execute(of)).one()
            return Claim(chunk_id=chunk_id, **taken._mapping, **owner._mapping)

    async def renew(self, claim: Claim, lease_s: float) -> bool:
        """Prolongs a lease; False if it was lost."""
        async with self._database.transaction() as connection:
            return await self._held(connection, claim, lease_until=time.time() + lease_s)

    async def finish(
        self, claim: Claim, *, results: Sequence[Row] = (), embeddings: Sequence[Row] = ()
    ) -> bool:
        """Writes what a chunk made and marks it done; False, and nothing written, if its lease was lost.

        The last chunk of a phase moves the run to the next, the last of all ends it.
        """
        async with self._database.transaction() as connection:
            if not await self._held(connection, claim, state="done", lease_until=None, error=None):
                return False
            await self._upsert(connection, precomputed_result, ("feature", "entity_key"), results)
            await self._upsert(connection, archive_embedding, ("archive", "entity_key", "model"), embeddings)
            await self._advance(connection, claim)
            return True

    async def fail(self, claim: Claim, error: str) -> None:
        """Hands a chunk back; at its third failure the chunk and its run fail."""
        chunk, run = precompute_chunk.c, precompute_run.c
        spent = chunk.failures + 1 >= MAX_FAILURES
        async with self._database.transaction() as connection:
            held = await self._held(
                connection,
                claim,
                failures=chunk.failures + 1,
                state=case((spent, "failed"), else_="pending"),
                lease_until=None,
                error=error,
            )
            if not held:
                return
            state = select(chunk.state).where(chunk.id == claim.chunk_id)
            if (await connection.execute(state)).scalar_one() == "failed":
                ended = {"state": "failed", "error": error, "finished_at": time.time()}
                await connection.execute(update(precompute_run).where(run.id == claim.run_id).values(ended))

    async def hand_back(self, claim: Claim) -> None:
        """Frees a chunk that was not worked on to its end, without counting a failure."""
        async with self._database.transaction() as connection:
            await self._held(connection, claim, state="pending", lease_until=None)

    async def progress(self, run_id: str) -> Progress | None:
        """How far a run is."""
        run, chunk = precompute_run.c, precompute_chunk.c
        done = func.coalesce(func.sum(case((chunk.state == "done", chunk.size), else_=0)), 0).label("done")
        total = func.coalesce(func.sum(chunk.size), 0).label("total")
        async with self._database.transaction() as connection:
            sums = (await connection.execute(select(done, total).where(chunk.run_id == run_id))).one()
            of = select(run.state, run.phase, run.error).where(run.id == run_id)
            row = (await connection.execute(of)).first()
            if row is None:
                return None
            return Progress(run_id, row.state, row.phase, sums.done, sums.total, row.error)

    async def latest(self, feature: str, version: str) -> Progress | None:
        """The newest run of a variant version."""
        run = precompute_run.c
        statement = select(run.id).where(run.feature == feature, run.variant_version == version)
        async with self._database.transaction() as connection:
            found = (await connection.execute(statement.order_by(run.id.desc()).limit(1))).scalar()
        return await self.progress(found) if found else None

    async def pending(self) -> int:
        """Chunks of running runs that are not done."""
        run, chunk = precompute_run.c, precompute_chunk.c
        statement = (
            select(func.count())
            .select_from(precompute_chunk)
            .join(precompute_run, run.id == chunk.run_id)
            .where(run.state == "running", chunk.state.in_(("pending", "leased")))
        )
        async with self._database.transaction() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def _advance(self, connection: AsyncConnection, claim: Claim) -> None:
        """Moves a run on if nothing of its phase is left.

        The run's row is locked first, so that of two workers that finish the last two chunks at
        once, the second sees the first's.
        """
        run, chunk = precompute_run.c, precompute_chunk.c
        lock = update(precompute_run).where(run.id == claim.run_id).values(phase=run.phase)
        await connection.execute(lock)
        left = (
            select(chunk.phase)
            .where(chunk.run_id == claim.run_id, chunk.state != "done")
            .group_by(chunk.phase)
            .order_by(func.min(chunk.id))
        )
        phases: list[str] = list((await connection.execute(left)).scalars())
        if claim.phase in phases:
            return
        change = {"phase": phases[0]} if phases else {"state": "done", "finished_at": time.time()}
        await connection.execute(update(precompute_run).where(run.id == claim.run_id).values(change))

    async def _held(self, connection: AsyncConnection, claim: Claim, **values: Any) -> bool:
        chunk = precompute_chunk.c
        mine = (chunk.id == claim.chunk_id) & (chunk.token == claim.token) & (chunk.state == "leased")
        done = await connection.execute(update(precompute_chunk).where(mine).values(values))
        return done.rowcount == 1

    async def _upsert(
        self, connection: AsyncConnection, table: Any, key: tuple[str, ...], rows: Sequence[Row]
    ) -> None:
        statement = self._database.insert(table)
        others = [c.name for c in table.c if c.name not in key]
        statement = statement.on_conflict_do_update(
            index_elements=list(key), set_={c: getattr(statement.excluded, c) for c in others}
        )
        for batch in in_batches(rows):
            await connection.execute(statement, batch)


def _free(now: float) -> Any:
    chunk = precompute_chunk.c
    return (chunk.state == "pending") | ((chunk.state == "leased") & (chunk.lease_until < now))


def _chunk(run_id: str, phase: str, keys: list[str]) -> Row:
    return {
        "id": new_id(),
        "run_id": run_id,
        "phase": phase,
        "first_key": keys[0],
        "last_key": keys[-1],
        "size": len(keys),
        "state": "pending",
        "token": 0,
        "failures": 0,
    }
