"""Archives: the records that features pre-compute for, and their embeddings."""

import time
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.domain.precompute import Item
from trivium.domain.recording import hash_of
from trivium.store.bulk import upsert
from trivium.store.engine import Database
from trivium.store.tables import archive_embedding, archive_item, precompute_run

Record = dict[str, Any]
_ITEM = ("archive", "entity_key", "record", "input_hash", "imported_at")
_PORTION = 2_000


def input_hash(record: Record) -> str:
    """The first 32 hex digits of the SHA-256 of a record in canonical JSON."""
    return hash_of(record)


class ArchiveRepository:
    """Archives in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, archive: str, records: dict[str, Record]) -> None:
        """Adds records by their entity_key, in one transaction; newer ones replace older."""
        async with self._database.transaction() as connection:
            await connection.execute(select(1))
            await self.add(connection, archive, records)

    async def replace(self, archive: str, records: dict[str, Record]) -> None:
        """Makes an archive hold these records and no others, in one transaction."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(archive_item).where(archive_item.c.archive == archive))
            await self.add(connection, archive, records)

    async def add(self, connection: AsyncConnection, archive: str, records: dict[str, Record]) -> None:
        """Adds records within a transaction that has begun; those that are the same stay untouched."""
        now = time.time()
        rows = []
        for key, record in records.items():
            canonical = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()
            rows.append((archive, key, canonical, hash_of(record), now))
        changed = "archive_item.input_hash <> new.input_hash"
        await upsert(self._database, connection, archive_item, _ITEM, rows, only_if=changed)

    async def count(self, archive: str) -> int:
        """How many records there are."""
        async with self._database.transaction() as connection:
            statement = select(func.count()).where(archive_item.c.archive == archive)
            return int((await connection.execute(statement)).scalar_one())

    async def keys(self, archive: str, after: str = "", limit: int = 1_000) -> list[str]:
        """The entity_keys after one, in order."""
        item = archive_item.c
        statement = select(item.entity_key).where(item.archive == archive, item.entity_key > after)
        async with self._database.transaction() as connection:
            return list((await connection.execute(statement.order_by("entity_key").limit(limit))).scalars())

    async def items(self, archive: str, keys: Sequence[str]) -> list[Item]:
        """The records of these keys, in order; those that there are not are left out."""
        item = archive_item.c
        found: list[Item] = []
        async with self._database.transaction() as connection:
            for start in range(0, len(keys), _PORTION):
                some = item.entity_key.in_(keys[start : start + _PORTION])
                statement = select(item.entity_key, item.record, item.input_hash).where(
                    item.archive == archive, some
                )
                rows: list[Any] = list(await connection.execute(statement))
                found += [Item(*row) for row in rows]
        return sorted(found, key=lambda one: one.entity_key)

    async def embedded(self, archive: str, model: str, keys: Sequence[str]) -> dict[str, str]:
        """The input_hash that each embedding was made from, by entity_key."""
        of = archive_embedding.c
        statement = select(of.entity_key, of.input_hash).where(
            of.archive == archive, of.model == model, of.entity_key.in_(keys)
        )
        async with self._database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(statement))
        return {row.entity_key: row.input_hash for row in rows}

    async def drop_orphans(self, archive: str, model: str) -> list[str]:
        """Forgets the embeddings of records that are gone; returns their keys."""
        of, item = archive_embedding.c, archive_item.c
        there = select(item.entity_key).where(item.archive == archive, item.entity_key == of.entity_key)
        statement = delete(archive_embedding).where(of.archive == archive, of.model == model, ~there.exists())
        async with self._database.transaction() as connection:
            return list((await connection.execute(statement.returning(of.entity_key))).scalars())

    async def last_settled_run(self, feature: str, variant: str, version: str) -> str:
        """The newest run that brought all results of a variant version up to date; "" if there is none.

        What was embedded by later runs may be missing in results that it would be a neighbour of.
        """
        run = precompute_run.c
        statement = select(func.coalesce(func.max(run.id), "")).where(
            *(run.feature == feature, run.variant == variant, run.variant_version == version),
            *(run.trigger.not_in(("refresh", "replay")), run.failed == 0),
            run.state.in_(("done", "done_with_errors")),
        )
        async with self._database.transaction() as connection:
            return str((await connection.execute(statement)).scalar_one())

    async def embeddings(self, archive: str, model: str) -> list[tuple[str, str, str | None, bytes]]:
        """(entity_key, input_hash, run_id, vector) of all that is embedded, in order of the key."""
        of = archive_embedding.c
        statement = (
            select(of.entity_key, of.input_hash, of.run_id, of.vector)
            .where(of.archive == archive, of.model == model)
            .order_by(of.entity_key)
        )
        async with self._database.transaction() as connection:
            rows: list[Any] = list(await connection.execute(statement))
        return [tuple(row) for row in rows]
