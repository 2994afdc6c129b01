"""Runs: what is started, watched, cancelled, replayed. Their chunks are in chunks.py."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.domain.precompute import COMPUTE, EMBED, ENDED, IMPORT, PHASES, SELECT
from trivium.errors import Conflict, NotFound
from trivium.store.engine import Database, in_batches
from trivium.store.tables import dead_item, precompute_chunk, precompute_run, refresh_request
from trivium.telemetry import new_id
from trivium.tracing import traceparent

Row = dict[str, Any]
COUNTS = ("computed", "unchanged", "abstained", "failed", "gone")
ACTIVE = ("queued", "running")
REFRESH = 0
BULK = 1
RATE_WINDOW_S = 30.0
PRUNE_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start. `source` says where its entities come from, `{"kind": …}`."""

    feature: str
    variant: str
    variant_version: str
    source: Row
    trigger: str = "cli"
    idempotency_key: str | None = None
    key_id: str | None = None
    force: bool = False
    max_error_ratio: float = 0.2
    max_cost_usd: float | None = None
    selects: bool = False
    """Whether whose results change is only known when all is embedded: neighbours."""
    traceparent: str | None = field(default_factory=traceparent)
    """The span in which it was asked for."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is.

    `total` counts entities, and grows while they are imported; `steps` counts them once a phase. Rates are
    entities a second.
    """

    run_id: str
    feature: str
    variant: str
    variant_version: str
    trigger: str
    state: str
    phase: str
    total: int
    computed: int
    unchanged: int
    abstained: int
    failed: int
    gone: int
    steps_done: int
    steps: int
    bad_lines: int
    line_errors: list[Row]
    cost_usd: float
    rate: float | None
    eta_s: float | None
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    chunks: dict[str, int] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


class RunRepository:
    """Runs in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self, new: NewRun, *, overlap: str = "refuse", lease_s: float | None = None
    ) -> tuple[str, bool]:
        """Stores a run, with the chunk that imports its entities.

        Args:
            new: the run.
            overlap: what becomes of it while another of the same variant is under way: refuse or queue.
            lease_s: that the import is leased for to the caller, who brings the records; by default a
                worker takes it.

        Returns:
            The run's id; and False if a run with its idempotency key stood already, which is then this.

        Raises:
            Conflict: another run of the variant is under way.
        """
        run, now = precompute_run.c, time.time()
        async with self._database.transaction() as connection:
            await self._database.serialise(connection, "runs")
            if new.idempotency_key:
                same = select(run.id).where(
                    run.feature == new.feature, run.idempotency_key == new.idempotency_key
                )
                if found := (await connection.execute(same)).scalar():
                    return str(found), False
            other = await self._under_way(connection, new.feature, new.variant)
            if other and overlap != "queue":
                raise Conflict(
                    f"Run {other} of {new.feature} {new.variant} is under way; wait for it, cancel it, "
                    "or start with overlap: queue"
                )
            run_id = await self._insert(connection, new, "queued" if other else "running", IMPORT, BULK, now)
            await connection.execute(insert(precompute_chunk), chunk_row(run_id, IMPORT, [], 0))
            if lease_s is not None:
                own = update(precompute_chunk).where(precompute_chunk.c.run_id == run_id)
                leased = {"state": "leased", "token": 1, "lease_until": self._database.now + lease_s}
                await connection.execute(own.values(leased))
            if new.selects:
                await connection.execute(insert(precompute_chunk), chunk_row(run_id, SELECT, [], 0))
            return run_id, True

    async def start_refresh(self, new: NewRun, limit: int) -> int:
        """Makes a run of the refreshes that wait for a variant; returns how many it took."""
        want = refresh_request.c
        waiting = (
            select(want.entity_key, want.traceparent)
            .where(want.feature == new.feature, want.variant == new.variant, want.run_id.is_(None))
            .order_by(want.entity_key)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        mine = (want.feature == new.feature) & (want.variant == new.variant)
        async with self._database.transaction() as connection:
            if self._database.is_sqlite:
                await self._database.serialise(connection, "runs")
            wishes: list[Any] = list(await connection.execute(waiting))
            keys: list[str] = [wish.entity_key for wish in wishes]
            if not keys:
                return 0
            origins = {wish.traceparent for wish in wishes}
            new = replace(new, traceparent=origins.pop() if len(origins) == 1 else None)
            phase = EMBED if new.selects else COMPUTE
            if new.selects:
                new = replace(new, source={**new.source, "keys": keys})
            run_id = await self._insert(connection, new, "running", phase, REFRESH, time.time())
            await connection.execute(insert(precompute_chunk), chunk_row(run_id, phase, keys, 0))
            if new.selects:
                await connection.execute(insert(precompute_chunk), chunk_row(run_id, SELECT, [], 0))
            taken = update(refresh_request).where(mine, want.entity_key.in_(keys), want.run_id.is_(None))
            await connection.execute(taken.values(run_id=run_id))
            return len(keys)

    async def replay(self, run_id: str, key_id: str | None = None) -> str:
        """Starts a run over what failed in an ended one; returns its id.

        Raises:
            NotFound: there is no such run. Conflict: it has not ended, or nothing of it is left to replay.
        """
        run, dead, now = precompute_run.c, dead_item.c, time.time()
        async with self._database.transaction() as connection:
            await self._database.serialise(connection, "runs")
            of = (await connection.execute(select(precompute_run).where(run.id == run_id))).mappings().first()
            if of is None:
                raise NotFound(f"There is no run {run_id}")
            if of["state"] not in ENDED:
                raise Conflict(
                    f"Run {run_id} is {of['state']}; what failed can be replayed when it has ended"
                )
            left = (dead.run_id == run_id) & dead.replayed_in.is_(None)
            keys: list[str] = list(
                (
                    await connection.execute(select(dead.entity_key).where(left).order_by("entity_key"))
                ).scalars()
            )
            if not keys:
                raise Conflict(f"Nothing of run {run_id} is left to replay")
            if other := await self._under_way(connection, of["feature"], of["variant"]):
                raise Conflict(f"Run {other} of {of['feature']} {of['variant']} is under way; wait for it")
            selects = select(func.count()).where(
                precompute_chunk.c.run_id == run_id, precompute_chunk.c.phase == SELECT
            )
            has_select = bool((await connection.execute(selects)).scalar_one())
            new = NewRun(
                of["feature"],
                of["variant"],
                of["variant_version"],
                {"kind": "replay", "run": run_id, **({"keys": keys} if has_select else {})},
                trigger="replay",
                key_id=key_id,
                force=True,
                max_error_ratio=1.0,
                max_cost_usd=of["max_cost_usd"],
                selects=has_select,
            )
            phase = EMBED if has_select else COMPUTE
            made = await self._insert(connection, new, "running", phase, BULK, now)
            size = 256
            cuts = [keys[at : at + size] for at in range(0, len(keys), size)]
            chunks = [chunk_row(made, phase, cut, n) for n, cut in enumerate(cuts)]
            if has_select:
                chunks.append(chunk_row(made, SELECT, [], 0))
            for batch in in_batches(chunks):
                await connection.execute(insert(precompute_chunk), batch)
            await connection.execute(update(dead_item).where(left).values(replayed_in=made))
            return made

    async def cancel(self, run_id: str) -> bool:
        """Ends a run; what it has written stays. False if it had ended already.

        Raises:
            NotFound: there is no such run.
        """
        async with self._database.transaction() as connection:
            ended = await end_run(connection, run_id, "cancelled", "cancelled", if_active=True)
        if not ended:
            await self.progress(run_id)
        return ended

    async def fail(self, run_id: str, error: str, *, free_key: bool = False) -> None:
        """Ends a run that cannot go on; `free_key` lets another be started with its idempotency key."""
        async with self._database.transaction() as connection:
            ended = await end_run(connection, run_id, "failed", error, if_active=True)
            if ended and free_key:
                own = update(precompute_run).where(precompute_run.c.id == run_id)
                await connection.execute(own.values(idempotency_key=None))

    async def newest(self, feature: str, limit: int) -> list[str]:
        """The ids of a feature's latest runs, newest first; refreshes are left out."""
        run = precompute_run.c
        statement = select(run.id).where(run.feature == feature, run.priority == BULK)
        async with self._database.transaction() as connection:
            return list((await connection.execute(statement.order_by(run.id.desc()).limit(limit))).scalars())

    async def promote(self) -> int:
        """Lets queued runs begin whose variant has no other under way; returns how many did."""
        run = precompute_run.c
        busy = precompute_run.alias()
        blocked = select(busy.c.id).where(
            busy.c.feature == run.feature,
            busy.c.variant == run.variant,
            busy.c.priority == BULK,
            (busy.c.state == "running") | ((busy.c.state == "queued") & (busy.c.id < run.id)),
        )
        ready = select(run.id).where(run.state == "queued", ~blocked.exists())
        async with self._database.transaction() as connection:
            ids: list[str] = list((await connection.execute(ready)).scalars())
            if ids:
                change = update(precompute_run).where(run.id.in_(ids), run.state == "queued")
                await connection.execute(change.values(state="running", started_at=time.time()))
            return len(ids)

    async def progress(self, run_id: str) -> RunProgress:
        """How far a run is; raises NotFound."""
        run, chunk = precompute_run.c, precompute_chunk.c
        async with self._database.transaction() as connection:
            row = (
                (await connection.execute(select(precompute_run).where(run.id == run_id))).mappings().first()
            )
            if row is None:
                raise NotFound(f"There is no run {run_id}")
            sums = await _sums(connection, run_id)
            now = time.time()
            recent = select(func.coalesce(func.sum(chunk.size), 0)).where(
                chunk.run_id == run_id, chunk.state == "done", chunk.finished_at > now - RATE_WINDOW_S
            )
            lately: int = (await connection.execute(recent)).scalar_one()
        return _progress(dict(row), sums, lately, now)

    async def latest(self, feature: str, variant: str, version: str) -> RunProgress | None:
        """The newest run of a variant version that is no refresh."""
        run = precompute_run.c
        statement = (
            select(run.id)
            .where(run.feature == feature, run.variant == variant, run.variant_version == version)
            .where(run.priority == BULK)
            .order_by(run.id.desc())
            .limit(1)
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(statement)).scalar()
        return await self.progress(found) if found else None

    async def under_way(self, feature: str, variant: str) -> str | None:
        """The bulk run of a variant that is queued or running."""
        async with self._database.transaction() as connection:
            return await self._under_way(connection, feature, variant)

    async def has_key(self, feature: str, idempotency_key: str) -> bool:
        """Whether a run stands under an idempotency key."""
        run = precompute_run.c
        statement = select(run.id).where(run.feature == feature, run.idempotency_key == idempotency_key)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).scalar() is not None

    async def dead_items(self, run_id: str, after: str = "", limit: int = 100) -> list[Row]:
        """Entities that a run could not compute, in order of their keys, from the one after `after`."""
        dead = dead_item.c
        statement = (
            select(dead.entity_key, dead.code, dead.detail, dead.abstained, dead.replayed_in)
            .where(dead.run_id == run_id, dead.entity_key > after)
            .order_by(dead.entity_key)
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    async def prune(self, before: float) -> int:
        """Forgets one portion of ended runs from before a moment, chunks and dead items first.

        Returns how many rows went; to be called until that is 0.
        """
        run, chunk, dead = precompute_run.c, precompute_chunk.c, dead_item.c
        old = select(run.id).where(run.state.in_(ENDED), run.finished_at < before)
        some_chunks = select(chunk.id).where(chunk.run_id.in_(old)).limit(PRUNE_ROWS)
        some_dead = select(dead.run_id, dead.entity_key).where(dead.run_id.in_(old)).limit(PRUNE_ROWS)
        async with self._database.transaction() as connection:
            done = await connection.execute(delete(precompute_chunk).where(chunk.id.in_(some_chunks)))
            if done.rowcount:
                return done.rowcount
            pairs: list[Any] = list((await connection.execute(some_dead)).all())
            for run_id in {pair.run_id for pair in pairs}:
                keys = [pair.entity_key for pair in pairs if pair.run_id == run_id]
                await connection.execute(
                    delete(dead_item).where(dead.run_id == run_id, dead.entity_key.in_(keys))
                )
            if pairs:
                return len(pairs)
            some_runs = old.limit(PRUNE_ROWS)
            done = await connection.execute(delete(precompute_run).where(run.id.in_(some_runs)))
            return done.rowcount

    async def _under_way(self, connection: AsyncConnection, feature: str, variant: str) -> str | None:
        run = precompute_run.c
        statement = select(run.id).where(
            run.feature == feature, run.variant == variant, run.state.in_(ACTIVE), run.priority == BULK
        )
        found: str | None = (await connection.execute(statement.order_by(run.id).limit(1))).scalar()
        return found

    async def _insert(
        self, connection: AsyncConnection, new: NewRun, state: str, phase: str, priority: int, now: float
    ) -> str:
        run_id = new_id()
        row: Row = {
            "id": run_id,
            "feature": new.feature,
            "variant": new.variant,
            "variant_version": new.variant_version,
            "trigger": new.trigger,
            "source": new.source,
            "idempotency_key": new.idempotency_key,
            "key_id": new.key_id,
            "state": state,
            "phase": phase,
            "priority": priority,
            "force": new.force,
            "max_error_ratio": new.max_error_ratio,
            "max_cost_usd": new.max_cost_usd,
            "line_errors": [],
            "bad_lines": 0,
            "created_at": now,
            "started_at": now if state == "running" else None,
            "traceparent": new.traceparent,
        }
        await connection.execute(insert(precompute_run), row)
        return run_id


def chunk_row(run_id: str, phase: str, keys: Sequence[str], position: int, failures: int = 0) -> Row:
    """A chunk that waits."""
    return {
        "id": new_id(),
        "run_id": run_id,
        "phase": phase,
        "position": position,
        "entity_keys": list(keys),
        "size": len(keys),
        "state": "pending",
        "token": 0,
        "attempts": 0,
        "failures": failures,
        "cost_usd": 0.0,
        **dict.fromkeys(COUNTS, 0),
    }


async def end_run(
    connection: AsyncConnection, run_id: str, state: str, error: str | None, *, if_active: bool = False
) -> bool:
    """Ends a run with its counts; its chunks that have not ended are cancelled, whoever holds them.

    A chunk that is just being written is passed over, because its writer waits for the run: what it writes
    holds, and is the last that it writes.
    """
    run, chunk = precompute_run.c, precompute_chunk.c
    lock = select(run.state).where(run.id == run_id).with_for_update()
    now_in = (await connection.execute(lock)).scalar()
    if now_in is None or (if_active and now_in not in ACTIVE):
        return False
    still_open = (
        select(chunk.id)
        .where(chunk.run_id == run_id, chunk.state.in_(("pending", "leased")))
        .with_for_update(skip_locked=True)
    )
    open_chunks = update(precompute_chunk).where(chunk.id.in_(still_open))
    await connection.execute(
        open_chunks.values(
            state="cancelled", token=chunk.token + 1, lease_until=None, finished_at=time.time()
        )
    )
    sums = await _sums(connection, run_id)
    counts = {name: sums[name] for name in (*COUNTS, "cost_usd", "total")}
    ended = update(precompute_run).where(run.id == run_id)
    await connection.execute(ended.values(state=state, error=error, finished_at=time.time(), **counts))
    freed = delete(refresh_request).where(refresh_request.c.run_id == run_id)
    await connection.execute(freed)
    return True


async def _sums(connection: AsyncConnection, run_id: str) -> Row:
    """Counts over a run's chunks. An entity is a step in each phase, and counts in the one that computes."""
    chunk = precompute_chunk.c

    def total(value: Any, name: str) -> Any:
        return func.coalesce(func.sum(value), 0).label(name)

    statement = select(
        *(total(getattr(chunk, name), name) for name in (*COUNTS, "cost_usd")),
        total(case((chunk.phase == COMPUTE, chunk.size), else_=0), "total"),
        total(chunk.size, "steps"),
        total(case((chunk.state.in_(("done", "split")), chunk.size), else_=0), "steps_done"),
    ).where(chunk.run_id == run_id)
    row: Row = dict((await connection.execute(statement)).mappings().one())
    by_state = select(chunk.state, func.count()).where(chunk.run_id == run_id).group_by(chunk.state)
    row["chunks"] = {found[0]: found[1] for found in await connection.execute(by_state)}
    return row


def _progress(row: Row, sums: Row, lately: int, now: float) -> RunProgress:
    ended = row["state"] in ENDED
    counts = {name: row[name] if ended else sums[name] for name in (*COUNTS, "total", "cost_usd")}
    started = row["started_at"]
    rate = None
    if ended and started and row["finished_at"] > started:
        rate = (counts["computed"] + counts["unchanged"]) / (row["finished_at"] - started)
    elif started and lately:
        rate = lately / min(RATE_WINDOW_S, max(now - started, 0.1))
    left = sums["steps"] - sums["steps_done"]
    names = RunProgress.__slots__
    kept = {name: row[name] for name in row if name in names and name not in counts}
    return RunProgress(
        run_id=row["id"],
        steps=sums["steps"],
        steps_done=sums["steps_done"],
        rate=rate,
        eta_s=None if ended or not rate or row["phase"] == PHASES[0] else left / rate,
        chunks=sums["chunks"],
        **counts,
        **kept,
    )
