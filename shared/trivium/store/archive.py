"""Archives: the imported records that features pre-compute for, and their embeddings."""

import hashlib
import json
import time
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database, in_batches
from trivium.store.tables import archive_embedding, archive_item

Record = dict[str, Any]


def input_hash(record: Record) -> str:
    """The first 32 hex digits of the SHA-256 of a record in canonical JSON."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class ArchiveRepository:
    """Archives in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, archive: str, records: dict[str, Record]) -> None:
        """Adds records by their entity_key, in one transaction; newer ones replace older."""
        async with self._database.transaction() as connection:
            await self._upsert(connection, archive, records)

    async def replace(self, archive: str, records: dict[str, Record]) -> None:
        """Makes an archive hold these records and no others, in one transaction."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(archive_item).where(archive_item.c.archive == archive))
            await self._upsert(connection, archive, records)

    async def count(self, archive: str) -> int:
        """How many records there are."""
        async with self._database.transaction() as connection:
            statement = select(func.count()).where(archive_item.c.archive == archive)
            return int((await connection.execute(statement)).scalar_one())

    async def keys(self, archive: str) -> list[str]:
        """All entity_keys, in order."""
        async with self._database.transaction() as connection:
            statement = select(archive_item.c.entity_key).where(archive_item.c.archive == archive)
            return list((await connection.execute(statement.order_by("entity_key"))).scalars())

    async def between(self, archive: str, first: str, last: str) -> list[dict[str, Any]]:
        """Rows (entity_key, record, input_hash) from first to last, both included, in order."""
        item = archive_item.c
        statement = (
            select(item.entity_key, item.record, item.input_hash)
            .where(item.archive == archive, item.entity_key.between(first, last))
            .order_by(item.entity_key)
        )
        async with self._database.transaction() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    async def embedded(self, archive: str, model: str, first: str, last: str) -> dict[str, str]:
        """The input_hash that each embedding of a range was made from, by entity_key."""
        of = archive_embedding.c
        statement = select(of.entity_key, of.input_hash).where(
            of.archive == archive, of.model == model, of.entity_key.between(first, last)
        )
        async with self._database.transaction() as connection:
            return {row.entity_key: row.input_hash for row in await connection.execute(statement)}

    async def embeddings(self, archive: str, model: str) -> list[tuple[str, str, Record, bytes]]:
        """(entity_key, input_hash, record, vector) of all that is embedded, in order of the key."""
        of, item = archive_embedding.c, archive_item.c
        joined = archive_embedding.join(
            archive_item,
            (of.archive == item.archive) & (of.entity_key == item.entity_key),
        )
        statement = (
            select(of.entity_key, of.input_hash, item.record, of.vector)
            .select_from(joined)
            .where(of.archive == archive, of.model == model)
            .order_by(of.entity_key)
        )
        async with self._database.transaction() as connection:
            rows = await connection.execute(statement)
            return [(row.entity_key, row.input_hash, row.record, row.vector) for row in rows]

    async def _upsert(self, connection: AsyncConnection, archive: str, records: dict[str, Record]) -> None:
        now = time.time()
        rows = [
            {
                "archive": archive,
                "entity_key": key,
                "record": record,
                "input_hash": input_hash(record),
                "imported_at": now,
            }
            for key, record in records.items()
        ]
        statement = self._database.insert(archive_item)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=["archive", "entity_key"],
            set_={c: getattr(new, c) for c in ("record", "input_hash", "imported_at")},
        )
        for batch in in_batches(rows):
            await connection.execute(statement, batch)
