"""Pre-computed results: one read on the hot path says the answer and whether it still holds."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select

from trivium.store.engine import Database
from trivium.store.tables import archive_item, precomputed_result


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result, and the hash of its entity's record as it is now (None: no such entity)."""

    output: dict[str, Any]
    input_hash: str
    variant_version: str
    computed_at: float
    current_input_hash: str | None


class ResultRepository:
    """Results in the database; the worker writes them with their chunk, see precompute.py."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, feature: str, archive: str, entity_key: str) -> StoredResult | None:
        """The result of one entity."""
        result, item = precomputed_result.c, archive_item.c
        joined = precomputed_result.outerjoin(
            archive_item,
            and_(item.archive == archive, item.entity_key == result.entity_key),
        )
        statement = (
            select(
                result.output,
                result.input_hash,
                result.variant_version,
                result.computed_at,
                item.input_hash.label("current_input_hash"),
            )
            .select_from(joined)
            .where(result.feature == feature, result.entity_key == entity_key)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(statement)).mappings().first()
            return StoredResult(**row) if row else None
