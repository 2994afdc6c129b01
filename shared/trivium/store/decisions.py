"""Decisions on rollouts, as rows: written once, never changed."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from trivium.domain.rollout import Decision, Stage
from trivium.store.engine import Database
from trivium.store.tables import decision

Row = dict[str, Any]


class DecisionRepository:
    """Decisions in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, made: Decision) -> Decision | None:
        """Stores a decision; None if another has changed the feature's stage since.

        Returns it as it is stored: the newest by its id, even if the clock of who made the last was ahead.

        Raises:
            Unavailable: the database is away.
        """
        async with self._database.transaction() as connection:
            await self._database.serialise(connection, f"decision:{made.feature}")
            latest = await connection.execute(_of(made.feature).limit(1))
            row = latest.mappings().first()
            if row is not None and row["to_stage"] != made.from_stage:
                return None
            if row is not None and row["id"] >= made.id:
                made = replace(made, id=str(UUID(int=UUID(row["id"]).int + 1)))
            await connection.execute(decision.insert().values(asdict(made)))
        return made

    async def latest(self, feature: str) -> Decision | None:
        """The newest; None before the first. Raises Unavailable."""
        found = await self.list(feature, 1)
        return found[0] if found else None

    async def list(self, feature: str, most: int, before: str | None = None) -> list[Decision]:
        """The newest first, `most` of them, those before the one of the id `before`; raises Unavailable."""
        wanted = _of(feature).limit(most)
        if before is not None:
            wanted = wanted.where(decision.c.id < before)
        async with self._database.reading() as connection:
            return [_decision(dict(row)) for row in (await connection.execute(wanted)).mappings()]

    async def began(self, feature: str) -> Decision | None:
        """The decision that brought the feature into the stage where it is; raises Unavailable."""
        moves = await self.moves(feature, 1)
        return moves[0] if moves else None

    async def moves(self, feature: str, most: int) -> Sequence[Decision]:
        """Those that changed the stage, the newest first, `most` of them; raises Unavailable."""
        own = decision.c
        moved = _of(feature).where(own.to_stage != own.from_stage).limit(most)
        async with self._database.reading() as connection:
            return [_decision(dict(row)) for row in (await connection.execute(moved)).mappings()]

    async def visits(self, feature: str, version: str, stage: Stage) -> int:
        """How often a version has come into a stage; raises Unavailable."""
        own = decision.c
        wanted = select(func.count()).where(
            own.feature == feature,
            own.version == version,
            own.to_stage == stage.value,
            own.from_stage != stage.value,
        )
        async with self._database.reading() as connection:
            return int((await connection.execute(wanted)).scalar_one())


def _of(feature: str) -> Any:
    # An id is a UUIDv7, so its order is that of time.
    return select(decision).where(decision.c.feature == feature).order_by(decision.c.id.desc())


def _decision(row: Row) -> Decision:
    return Decision(**{**row, "from_stage": Stage(row["from_stage"]), "to_stage": Stage(row["to_stage"])})
