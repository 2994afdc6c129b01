"""Chunks: claimed with a lease and a fencing token, checkpointed in the transaction of their results.

A worker that lost its lease, or whose run was cancelled, writes nothing: every write demands the token.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Select, delete, func, insert, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.domain.precompute import IMPORT, PHASES, Batch, Item
from trivium.store.bulk import upsert
from trivium.store.engine import Database, in_batches
from trivium.store.results import ITEM_OF_KEY, RESULT_OF_KEY
from trivium.store.runs import ACTIVE, chunk_row, end_run
from trivium.store.tables import (
    archive_embedding,
    dead_item,
    precompute_chunk,
    precompute_run,
    precomputed_result,
)

Row = dict[str, Any]
# A run judges its errors from so many on.
MIN_FAILED = 20
MAX_LINE_ERRORS = 100
# Of a run that was cancelled: one that was just being written stays leased, see end_run.
_LEFT = ("cancelled", "leased")
_RESULT = (
    *("feature", "variant", "entity_key", "output", "input_hash", "variant_version"),
    *("confidence", "model", "cost_usd", "computed_at", "run_id"),
)
_DEAD = (
    *("run_id", "entity_key", "feature", "variant", "variant_version", "input_hash"),
    *("code", "detail", "abstained", "created_at"),
)
_EMBEDDING = ("archive", "entity_key", "model", "input_hash", "vector", "run_id")


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk that this worker holds until its lease ends."""

    chunk_id: str
    token: int
    run_id: str
    phase: str
    position: int
    keys: list[str]
    cursor: Row | None
    attempts: int
    failures: int
    feature: str
    variant: str
    variant_version: str
    source: Row
    force: bool
    taken_at: float
    """By the database's clock: what is read after it is at least as new."""
    traceparent: str | None = None
    """The span in which the run was asked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """What of a chunk's entities is to be computed."""

    items: list[Item]
    unchanged: int
    gone: list[str]


class ChunkRepository:
    """Chunks in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def to_ring(self, limit: int) -> list[tuple[str, int]]:
        """Chunks of the running phases that wait or whose lease has ended: (id, token).

        Refreshes go first; then the earliest chunk, and of one that was bisected its smallest part, so that
        what is poisonous is soon alone.
        """
        run, chunk = precompute_run.c, precompute_chunk.c
        statement = (
            select(chunk.id, chunk.token)
            .join(precompute_run, run.id == chunk.run_id)
            .where(run.state == "running", chunk.phase == run.phase, self._free())
            .order_by(run.priority, run.id, chunk.position, chunk.size, chunk.id)
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            return [(row.id, row.token) for row in await connection.execute(statement)]

    async def claim(self, chunk_id: str, lease_s: float, worker: str = "") -> Claim | None:
        """Takes a free chunk of a running phase; None if another has it or it is done."""
        run, chunk = precompute_run.c, precompute_chunk.c
        now = self._database.now
        its_turn = select(run.id).where(
            run.id == chunk.run_id, run.state == "running", run.phase == chunk.phase
        )
        free: Select[Any] = (
            select(chunk.id)
            .where(chunk.id == chunk_id, self._free(), its_turn.exists())
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(precompute_chunk)
            .where(chunk.id == free.scalar_subquery())
            .values(
                state="leased",
                token=chunk.token + 1,
                attempts=chunk.attempts + 1,
                lease_until=now + lease_s,
                worker=worker[:64],
            )
            .returning(
                *(chunk.token, chunk.run_id, chunk.phase, chunk.position, chunk.entity_keys.label("keys")),
                *(chunk.cursor, chunk.attempts, chunk.failures, now.label("taken_at")),
            )
        )
        async with self._database.transaction() as connection:
            taken = (await connection.execute(statement)).first()
            if not taken:
                return None
            of = select(run.feature, run.variant, run.variant_version, run.source, run.force, run.traceparent)
            owner = (await connection.execute(of.where(run.id == taken.run_id))).one()
            return Claim(chunk_id=chunk_id, **taken._mapping, **owner._mapping)

    async def held_import(self, run_id: str) -> Claim:
        """The import of a run that its starter brings the records for, as it was leased at the start."""
        run, chunk = precompute_run.c, precompute_chunk.c
        columns: list[Any] = [
            *(chunk.id.label("chunk_id"), chunk.token, chunk.run_id, chunk.phase, chunk.position),
            *(
                chunk.entity_keys.label("keys"),
                chunk.cursor,
                chunk.attempts,
                chunk.failures,
                self._database.now.label("taken_at"),
            ),
            *(run.feature, run.variant, run.variant_version, run.source, run.force),
        ]
        statement = select(*columns).join(precompute_run, run.id == chunk.run_id)
        own = statement.where(chunk.run_id == run_id, chunk.phase == IMPORT)
        async with self._database.transaction() as connection:
            return Claim(**(await connection.execute(own)).one()._mapping)

    async def renew(self, claim: Claim, lease_s: float) -> bool:
        """Prolongs a lease; False if it was lost, or the run was cancelled."""
        async with self._database.transaction() as connection:
            return await self._held(connection, claim, lease_until=self._database.now + lease_s)

    async def find(self, claim: Claim, archive: str, keys: Sequence[str], *, force: bool) -> Found:
        """Of some entities of a chunk those that have changed, or have no result of this variant version.

        With `force` it is all that are in the archive.
        """
        statement = self._database.look_up(
            "given.value, CAST(archive_item.record AS TEXT), archive_item.input_hash, "
            "COALESCE(precomputed_result.input_hash = archive_item.input_hash "
            "AND precomputed_result.variant_version = :version, FALSE)",
            archive_item=ITEM_OF_KEY,
            precomputed_result=RESULT_OF_KEY,
        )
        given = {
            "keys": json.dumps(list(keys)),
            "version": claim.variant_version,
            "archive": archive,
            "feature": claim.feature,
            "variant": claim.variant,
        }
        async with self._database.transaction() as connection:
            rows: list[Any] = list((await connection.execute(statement, given)).all())
        gone = [key for key, record, _, _ in rows if record is None]
        due = [row for row in rows if row[1] is not None and (force or not row[3])]
        items = [Item(key, orjson.loads(record), input_hash) for key, record, input_hash, _ in due]
        return Found(items, len(rows) - len(gone) - len(items), gone)

    async def checkpoint(
        self,
        claim: Claim,
        batch: Batch,
        *,
        ends: bool,
        cursor: Row | None = None,
        archive: str = "",
        model: str = "",
        following: Sequence[tuple[str, list[str]]] = (),
    ) -> bool:
        """Writes what a chunk made and how far it got, in one transaction.

        Args:
            claim: the lease that it is written under.
            batch: what was made since the last checkpoint.
            ends: whether the chunk is done; the last of a phase moves the run to the next, the last of all
                ends it.
            cursor: where to go on, if the chunk is not done.
            archive: of the embeddings.
            model: of the embeddings.
            following: (phase, keys) of chunks that this one found to be necessary.

        Returns:
            False, and nothing is written, if the lease was lost.
        """
        chunk = precompute_chunk.c
        values: Row = {
            "computed": chunk.computed + len(batch.results),
            "unchanged": chunk.unchanged + batch.unchanged,
            "abstained": chunk.abstained + len(batch.dead) - batch.failed,
            "failed": chunk.failed + batch.failed,
            "gone": chunk.gone + len(batch.gone),
            "cost_usd": chunk.cost_usd + batch.cost_usd,
            "cursor": cursor,
        }
        if ends:
            values |= {"state": "done", "lease_until": None, "error": None, "finished_at": time.time()}
            values["size"] = chunk.size - len(batch.left)
        async with self._database.transaction() as connection:
            if not await self._held(connection, claim, **values):
                return False
            await self._write(connection, claim, batch, archive, model)
            rows = [
                chunk_row(claim.run_id, phase, keys, claim.position + n)
                for n, (phase, keys) in enumerate(following)
            ]
            if batch.left:
                left = chunk_row(claim.run_id, claim.phase, batch.left, claim.position)
                rows.append({**left, "cursor": {"one_by_one": True}})
            for part in in_batches(rows):
                await connection.execute(insert(precompute_chunk), part)
            if ends:
                await self._advance(connection, claim)
            if batch.failed or batch.cost_usd:
                await self._stop_if_hopeless(connection, claim)
            return True

    async def add_imported(
        self,
        connection: AsyncConnection,
        claim: Claim,
        keys: list[str],
        phase: str,
        *,
        position: int,
        cursor: Row,
        bad: Sequence[Row] = (),
    ) -> bool:
        """Adds a chunk of imported entities and moves the import on; within the records' own transaction.

        False, and the transaction must be given up, if the lease was lost.
        """
        if not await self._held(connection, claim, cursor=cursor):
            return False
        if keys:
            await connection.execute(insert(precompute_chunk), chunk_row(claim.run_id, phase, keys, position))
        if bad:
            run = precompute_run.c
            of = select(run.line_errors).where(run.id == claim.run_id)
            told = [*(await connection.execute(of)).scalar_one(), *bad][:MAX_LINE_ERRORS]
            change = update(precompute_run).where(run.id == claim.run_id)
            await connection.execute(change.values(line_errors=told, bad_lines=run.bad_lines + len(bad)))
        return True

    async def split(self, claim: Claim, error: str, keys: Sequence[str]) -> bool:
        """Bisects a chunk that fails as a whole: its halves are tried apart.

        Args:
            claim: of the chunk.
            error: why.
            keys: those of its entities that have not been computed, at least two.
        """
        middle = len(keys) // 2
        halves = [keys[:middle], keys[middle:]]
        values = {
            "state": "split",
            "size": len(claim.keys) - len(keys),
            "lease_until": None,
            "error": error,
            "finished_at": time.time(),
        }
        async with self._database.transaction() as connection:
            if not await self._held(connection, claim, **values):
                return False
            rows = [chunk_row(claim.run_id, claim.phase, half, claim.position, 1) for half in halves]
            if (claim.cursor or {}).get("one_by_one"):
                rows = [{**row, "cursor": {"one_by_one": True}} for row in rows]
            await connection.execute(insert(precompute_chunk), rows)
            return True

    async def hand_back(self, claim: Claim, *, after_s: float = 0.0, error: str | None = None) -> bool:
        """Frees a chunk that was not worked on to its end; with an error, that counts as a failure."""
        chunk = precompute_chunk.c
        values: Row = {"state": "pending", "lease_until": None, "attempts": chunk.attempts - 1}
        if after_s:
            values["not_before"] = self._database.now + after_s
        if error is not None:
            values |= {"failures": chunk.failures + 1, "error": error}
        async with self._database.transaction() as connection:
            return await self._held(connection, claim, **values)

    async def note(self, claim: Claim, cursor: Row) -> bool:
        """Stores where a chunk stands before anything is made; False if its lease was lost."""
        async with self._database.transaction() as connection:
            return await self._held(connection, claim, cursor=cursor)

    async def abandoned(self, since: float) -> list[tuple[str, Row]]:
        """(chunk id, what it noted) of runs cancelled since a moment that left a vendor's batch behind."""
        run, chunk = precompute_run.c, precompute_chunk.c
        statement = (
            select(chunk.id, chunk.cursor)
            .join(precompute_run, run.id == chunk.run_id)
            .where(run.state.in_(("cancelled", "failed")), run.finished_at > since)
            .where(chunk.state.in_(_LEFT), chunk.cursor.is_not(None))
        )
        async with self._database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(statement))
        return [(row.id, row.cursor["batch"]) for row in rows if row.cursor and row.cursor.get("batch")]

    async def forget_place(self, chunk_id: str) -> None:
        """Forgets what an abandoned chunk noted."""
        chunk = precompute_chunk.c
        async with self._database.transaction() as connection:
            own = update(precompute_chunk).where(chunk.id == chunk_id, chunk.state.in_(_LEFT))
            await connection.execute(own.values(cursor=null()))

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

    async def _write(
        self, connection: AsyncConnection, claim: Claim, batch: Batch, archive: str, model: str
    ) -> None:
        # Not later than the input was read: of two that compute an entity, the newer input wins.
        own, at = (claim.feature, claim.variant), claim.taken_at
        results = [
            (
                *own,
                made.item.entity_key,
                orjson.dumps(made.output).decode(),
                made.item.input_hash,
                claim.variant_version,
                made.confidence,
                made.model,
                made.cost_usd,
                at,
                claim.run_id,
            )
            for made in batch.results
        ]
        newer = "new.computed_at >= precomputed_result.computed_at"
        await upsert(self._database, connection, precomputed_result, _RESULT, results, only_if=newer)
        dead = [
            (
                *(claim.run_id, item.entity_key, *own, claim.variant_version, item.input_hash),
                *(item.code, item.detail[:2000], item.abstained, time.time()),
            )
            for item in batch.dead
        ]
        await upsert(self._database, connection, dead_item, _DEAD, dead)
        vectors = [
            (archive, made.entity_key, model, made.input_hash, made.vector, claim.run_id)
            for made in batch.embeddings
        ]
        await upsert(self._database, connection, archive_embedding, _EMBEDDING, vectors)
        result = precomputed_result.c
        for keys in _in_hundreds(batch.gone):
            of = delete(precomputed_result).where(result.feature == claim.feature)
            await connection.execute(of.where(result.variant == claim.variant, result.entity_key.in_(keys)))

    async def _advance(self, connection: AsyncConnection, claim: Claim) -> None:
        """Moves a run on if nothing of its phase is left.

        The run's row is locked first, so that of two workers that finish the last two chunks at once, the
        second sees the first's.
        """
        run, chunk = precompute_run.c, precompute_chunk.c
        lock = select(run.state).where(run.id == claim.run_id).with_for_update()
        if (await connection.execute(lock)).scalar_one() not in ACTIVE:
            return
        open_in = select(chunk.phase).where(
            chunk.run_id == claim.run_id, chunk.state.in_(("pending", "leased"))
        )
        here = open_in.where(chunk.phase == claim.phase).limit(1)
        if (await connection.execute(here)).first():
            return
        left: set[str] = set((await connection.execute(open_in.distinct())).scalars())
        if left:
            phase = next(name for name in PHASES if name in left)
            await connection.execute(update(precompute_run).where(run.id == claim.run_id).values(phase=phase))
            return
        failed = select(func.sum(chunk.failed)).where(chunk.run_id == claim.run_id)
        bad = select(run.bad_lines).where(run.id == claim.run_id)
        errors = ((await connection.execute(failed)).scalar() or 0) + (
            (await connection.execute(bad)).scalar() or 0
        )
        await end_run(connection, claim.run_id, "done_with_errors" if errors else "done", None)

    async def _stop_if_hopeless(self, connection: AsyncConnection, claim: Claim) -> None:
        run, chunk = precompute_run.c, precompute_chunk.c
        limits = (
            await connection.execute(
                select(run.max_error_ratio, run.max_cost_usd).where(run.id == claim.run_id)
            )
        ).one()
        tried = func.sum(chunk.computed + chunk.unchanged + chunk.abstained + chunk.failed)
        sums = select(func.sum(chunk.failed), tried, func.sum(chunk.cost_usd))
        failed, of, cost = (await connection.execute(sums.where(chunk.run_id == claim.run_id))).one()
        why = None
        if failed >= MIN_FAILED and failed > limits.max_error_ratio * of:
            why = f"stopped: {failed} of {of} entities failed, over max_error_ratio {limits.max_error_ratio}"
        elif limits.max_cost_usd is not None and cost > limits.max_cost_usd:
            why = f"stopped: it has cost {cost:.2f} USD, over max_cost_usd {limits.max_cost_usd}"
        if why:
            await end_run(connection, claim.run_id, "failed", why, if_active=True)

    async def _held(self, connection: AsyncConnection, claim: Claim, **values: Any) -> bool:
        run, chunk = precompute_run.c, precompute_chunk.c
        mine = (chunk.id == claim.chunk_id) & (chunk.token == claim.token) & (chunk.state == "leased")
        wanted = select(run.id).where(run.id == claim.run_id, run.state.in_(ACTIVE)).exists()
        done = await connection.execute(update(precompute_chunk).where(mine, wanted).values(values))
        return done.rowcount == 1

    def _free(self) -> Any:
        chunk, now = precompute_chunk.c, self._database.now
        waits = (chunk.state == "pending") & or_(chunk.not_before.is_(None), chunk.not_before <= now)
        return waits | ((chunk.state == "leased") & (chunk.lease_until < now))


def _in_hundreds(keys: Sequence[str]) -> list[list[str]]:
    return [list(keys[at : at + 500]) for at in range(0, len(keys), 500)]
