"""Feedback events, as rows."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import bindparam, null, select, text, tuple_, update

from trivium.domain.feedback import Feedback, Kind
from trivium.errors import Conflict
from trivium.store.engine import Database, insert_ignoring
from trivium.store.settled import settled_late
from trivium.store.tables import NO_DISTANCE, feedback, inference

Row = dict[str, Any]
FIRST = (0.0, "")


@dataclass(frozen=True, slots=True)
class Edit:
    """A right output whose distance from the answer is not known; `answered` is None where that is not."""

    id: str
    received_at: float
    value: Row
    answered: Row | None

    @property
    def place(self) -> tuple[float, str]:
        """Where it stands in the order of reading."""
        return self.received_at, self.id


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
        # A journal may have been written by the version before.
        rows = [{"edit_distance": None, **row} for row in rows]
        async with self._database.transaction() as connection:
            await insert_ignoring(connection, self._database.insert(feedback), rows)

    async def without_distance(
        self, since: float, after: tuple[float, str] = FIRST, limit: int = 500
    ) -> list[Edit]:
        """Edits and corrections received since a time whose distance is missing, oldest first; one portion.

        An answer that was a placeholder when it was given counts as not known: nobody knows whether the edit
        was made of that or of what came later.

        Raises:
            Unavailable: the database is away.
        """
        own, about = feedback.c, inference.c
        joined = feedback.outerjoin(inference, (about.id == own.inference_id) & ~settled_late())
        statement = (
            select(own.id, own.received_at, own.value, about.output, about.status)
            .select_from(joined)
            .where(text(NO_DISTANCE), own.value.is_not(null()), own.received_at >= since)
            .where(tuple_(own.received_at, own.id) > after)
            .order_by(own.received_at, own.id)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            Edit(row.id, row.received_at, row.value, None if row.status == "generating" else row.output)
            for row in rows
        ]

    async def set_distances(self, distances: dict[str, float]) -> None:
        """Fills in distances by the events' ids; those that are there stay. Raises Unavailable."""
        if not distances:
            return
        own = feedback.c
        statement = (
            update(feedback)
            .where(own.id == bindparam("event"), own.edit_distance.is_(None))
            .values(edit_distance=bindparam("distance"))
        )
        rows = [{"event": event, "distance": distance} for event, distance in sorted(distances.items())]
        async with self._database.transaction() as connection:
            await connection.execute(statement, rows)

    async def of_inference(self, inference_id: str) -> list[Row]:
        """The events about one inference, oldest first."""
        async with self._database.transaction() as connection:
            statement = select(feedback).where(feedback.c.inference_id == inference_id)
            rows = await connection.execute(statement.order_by(feedback.c.received_at))
            return [dict(row) for row in rows.mappings()]
