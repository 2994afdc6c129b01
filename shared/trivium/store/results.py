"""Stored results: one read says the answer and whether it still holds. Chunks write them, see chunks.py."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Select, delete, func, select, text

from trivium.domain.precompute import RefreshReason
from trivium.store.engine import Database, insert_ignoring
from trivium.store.tables import archive_item, precomputed_result, refresh_request
from trivium.tracing import call, traceparent

PRUNE_ROWS = 5_000
_SAMPLE = 1_000
ITEM_OF_KEY = "archive_item.archive = :archive AND archive_item.entity_key = given.value"
RESULT_OF_KEY = (
    "precomputed_result.feature = :feature AND precomputed_result.variant = :variant "
    "AND precomputed_result.entity_key = given.value"
)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What there is of an entity. Without a result, `output` and what follows it are None.

    `current_input_hash` is that of the entity's record as it is now; None if there is no such entity.
    """

    entity_key: str
    current_input_hash: str | None
    output: dict[str, Any] | None
    input_hash: str
    variant_version: str
    confidence: float | None
    model: str | None
    computed_at: float


@dataclass(frozen=True, slots=True)
class Refresh:
    """A wish to compute one entity anew; `record` is its input, where the wish brings a newer one.

    `traceparent`: the span in which it was wished for.
    """

    feature: str
    variant: str
    entity_key: str
    reason: RefreshReason
    record: dict[str, Any] | None = None
    traceparent: str | None = field(default_factory=traceparent, compare=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """How much one variant has stored; bytes are those of a sample, times the rows."""

    feature: str
    variant: str
    rows: int
    bytes: int


class ResultRepository:
    """Results in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told = {
            "db.system.name": "sqlite" if database.is_sqlite else "postgresql",
            "db.operation.name": "SELECT",
            "db.collection.name": precomputed_result.name,
        }

    async def find(
        self, feature: str, variant: str, archive: str, entity_keys: Sequence[str]
    ) -> list[StoredResult]:
        """What there is of some entities, in their order, by one query."""
        statement = self._database.look_up(
            "given.value, archive_item.input_hash, CAST(precomputed_result.output AS TEXT), "
            "precomputed_result.input_hash, precomputed_result.variant_version, "
            "precomputed_result.confidence, precomputed_result.model, precomputed_result.computed_at",
            archive_item=ITEM_OF_KEY,
            precomputed_result=RESULT_OF_KEY,
        )
        given = {
            "keys": orjson.dumps(list(entity_keys)).decode(),
            "archive": archive,
            "feature": feature,
            "variant": variant,
        }
        with call("SELECT precomputed_result") as span:
            async with self._database.reading() as connection:
                rows = (await connection.execute(statement, given)).all()
            if span.recording:
                span.set({**self._told, "db.response.returned_rows": len(rows)})
        found = {
            row[0]: StoredResult(row[0], row[1], orjson.loads(row[2]) if row[2] else None, *row[3:])
            for row in rows
        }
        return [found[key] for key in entity_keys]

    async def ask(self, wishes: Sequence[Refresh]) -> None:
        """Notes wishes; one for an entity that waits for its turn already changes nothing."""
        now = time.time()
        rows = {
            (wish.feature, wish.variant, wish.entity_key): {
                "feature": wish.feature,
                "variant": wish.variant,
                "entity_key": wish.entity_key,
                "reason": wish.reason,
                "record": wish.record,
                "requested_at": now,
                "traceparent": wish.traceparent,
            }
            for wish in wishes
        }
        async with self._database.transaction() as connection:
            await insert_ignoring(connection, self._database.insert(refresh_request), list(rows.values()))

    async def wanted(self) -> list[tuple[str, str]]:
        """(feature, variant) of the wishes that no run has taken yet."""
        want = refresh_request.c
        statement = select(want.feature, want.variant).where(want.run_id.is_(None)).distinct()
        async with self._database.transaction() as connection:
            return [(row.feature, row.variant) for row in await connection.execute(statement)]

    async def records_wished(
        self, feature: str, variant: str, keys: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """The records that wishes bring."""
        want = refresh_request.c
        statement = select(want.entity_key, want.record).where(
            want.feature == feature, want.variant == variant, want.entity_key.in_(keys)
        )
        async with self._database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(statement))
        return {row.entity_key: row.record for row in rows if row.record}

    async def origins(self, run_id: str, limit: int) -> list[str]:
        """The spans in which a run's refreshes were wished for, some of them, each once."""
        want = refresh_request.c
        known = select(want.traceparent).where(want.run_id == run_id, want.traceparent.is_not(None))
        async with self._database.transaction() as connection:
            return list((await connection.execute(known.distinct().limit(limit))).scalars())

    async def outputs_of(
        self, feature: str, variant: str, version: str, after: str, limit: int
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """(entity_key, input_hash, output) of one version's results after a key, in order."""
        result = precomputed_result.c
        statement = (
            select(result.entity_key, result.input_hash, result.output)
            .where(result.feature == feature, result.variant == variant, result.entity_key > after)
            .where(result.variant_version == version)
            .order_by(result.entity_key)
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(statement))
        return [tuple(row) for row in rows]

    async def stored(self) -> list[Stored]:
        """How much each variant has stored."""
        result = precomputed_result.c
        counts = select(result.feature, result.variant, func.count()).group_by("feature", "variant")
        size = (
            "length(output) + length(entity_key) + 160"
            if self._database.is_sqlite
            else "pg_column_size(precomputed_result)"
        )
        sample = text(
            f"SELECT avg(bytes) FROM (SELECT {size} AS bytes FROM precomputed_result "  # noqa: S608
            f"WHERE feature = :feature AND variant = :variant LIMIT {_SAMPLE}) AS sample"
        )
        found = []
        async with self._database.transaction() as connection:
            counted: list[Any] = list((await connection.execute(counts)).all())
            for feature, variant, rows in counted:
                given = {"feature": feature, "variant": variant}
                mean = float((await connection.execute(sample, given)).scalar_one())
                found.append(Stored(feature, variant, rows, round(mean * rows)))
        return found

    async def count_to_prune(
        self, feature: str, variant: str, *, archive: str | None, before: float | None
    ) -> int:
        """How many results `prune` would drop in all."""
        chosen = _to_prune(feature, variant, archive, before).subquery()
        async with self._database.transaction() as connection:
            counted = await connection.execute(select(func.count()).select_from(chosen))
            return int(counted.scalar_one())

    async def prune(self, feature: str, variant: str, *, archive: str | None, before: float | None) -> int:
        """Drops one portion of a variant's results; returns how many went, to be called until that is 0.

        Args:
            feature: whose.
            variant: whose.
            archive: drop the results of entities that are not in it any more; None: drop all.
            before: drop those that were computed before this moment.
        """
        result = precomputed_result.c
        chosen = _to_prune(feature, variant, archive, before).limit(PRUNE_ROWS)
        own = (result.feature == feature) & (result.variant == variant)
        async with self._database.transaction() as connection:
            gone = await connection.execute(
                delete(precomputed_result).where(own, result.entity_key.in_(chosen))
            )
            return gone.rowcount


def _to_prune(feature: str, variant: str, archive: str | None, before: float | None) -> Select[Any]:
    result, item = precomputed_result.c, archive_item.c
    of = select(result.entity_key).where(result.feature == feature, result.variant == variant)
    if archive is None:
        return of
    there = select(item.entity_key).where(item.archive == archive, item.entity_key == result.entity_key)
    gone = ~there.exists()
    return of.where(gone if before is None else gone | (result.computed_at < before))
