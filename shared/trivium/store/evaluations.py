"""Evaluations and their cases, as rows: written once, never changed."""

from typing import Any

from sqlalchemy import select

from trivium.store.engine import Database
from trivium.store.tables import evaluation, evaluation_case

Row = dict[str, Any]


class EvaluationRepository:
    """Evaluations in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: Row, cases: list[Row]) -> None:
        """Stores an evaluation and its cases in one transaction; raises Unavailable."""
        async with self._database.transaction() as connection:
            await connection.execute(evaluation.insert().values(row))
            await connection.execute(evaluation_case.insert(), cases)

    async def latest(self, feature: str, **columns: Any) -> Row | None:
        """The newest evaluation with such values of its columns; raises Unavailable."""
        own = evaluation.c
        wanted = select(evaluation).where(own.feature == feature)
        for name, value in columns.items():
            wanted = wanted.where(own[name] == value)
        return await self._first(wanted.order_by(own.id.desc()).limit(1))

    async def baseline(self, feature: str, against: str, variant: str, version: str) -> Row | None:
        """What to compare with: an evaluation's id, a version, a variant's name, or `last`.

        `last` is the newest of the same variant with another version. Raises Unavailable.
        """
        own = evaluation.c
        wanted = select(evaluation).where(own.feature == feature).order_by(own.id.desc()).limit(1)
        if against == "last":
            return await self._first(wanted.where(own.variant == variant, own.version != version))
        for column in (own.id, own.version, own.variant):
            if found := await self._first(wanted.where(column == against)):
                return found
        return None

    async def cases(self, evaluation_id: str) -> list[Row]:
        """Its cases with their repeats; raises Unavailable."""
        own = evaluation_case.c
        wanted = select(evaluation_case).where(own.evaluation_id == evaluation_id)
        async with self._database.reading() as connection:
            found = await connection.execute(wanted.order_by(own.case_id, own.repeat))
            return [dict(row) for row in found.mappings()]

    async def _first(self, wanted: Any) -> Row | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(wanted)).mappings().first()
            return dict(row) if row else None
