"""Feedback events, as rows."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from trivium.domain.feedback import Feedback, Kind
from trivium.errors import Conflict
from trivium.store.engine import Database, insert_ignoring
from trivium.store.tables import feedback

Row = dict[str, Any]


class FeedbackRepository:
    """Feedback in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: Feedback) -> Feedback:
        """Stores an event, once for its Idempotency-Key; returns the stored one.

        Raises:
            Conflict: the key was used for another event.
        """
        async with self._database.transaction() as connection:
            await insert_ignoring(connection, self._database.insert(feedback), [asdict(event)])
            statement = select(feedback).where(
                feedback.c.key_id == event.key_id,
                feedback.c.idempotency_key == event.idempotency_key,
            )
            row = dict((await connection.execute(statement)).mappings().one())
        stored = Feedback(**{**row, "kind": Kind(row["kind"])})
        if stored.id != event.id and not stored.same_event(event):
            raise Conflict(
                f"Idempotency-Key {event.idempotency_key!r} was used for another event, {stored.id}"
            )
        return stored

    async def add_rows(self, rows: list[Row]) -> None:
        """Stores what the journal kept; events that stand already are left as they are."""
        async with self._database.transaction() as connection:
            await insert_ignoring(connection, self._database.insert(feedback), rows)

    async def of_inference(self, inference_id: str) -> list[Row]:
        """The events about one inference, oldest first."""
        async with self._database.transaction() as connection:
            statement = select(feedback).where(feedback.c.inference_id == inference_id)
            rows = await connection.execute(statement.order_by(feedback.c.received_at))
            return [dict(row) for row in rows.mappings()]
