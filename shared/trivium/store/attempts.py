"""What the ledger of attempts tells of a version."""

from sqlalchemy import select

from trivium.store.engine import Database
from trivium.store.tables import attempt


class AttemptRepository:
    """Attempts in the database; times are UTC Unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, feature: str, version: str, since: float) -> float | None:
        """When a version was first tried after a moment, whether it answered or failed; None if it was not.

        Raises:
            Unavailable: the database is away.
        """
        own = attempt.c
        wanted = (
            select(own.created_at)
            .where(own.feature == feature, own.version == version, own.created_at >= since)
            .order_by(own.created_at)
            .limit(1)
        )
        async with self._database.reading() as connection:
            found = (await connection.execute(wanted)).scalar_one_or_none()
            return None if found is None else float(found)
