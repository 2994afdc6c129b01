"""Answers with what was said of them, and the verdicts of those who reviewed that."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, select, tuple_

from trivium.domain.corrections import Verdict
from trivium.domain.feedback import Kind
from trivium.store.engine import Database
from trivium.store.settled import settled_late
from trivium.store.tables import feedback, inference, review

Row = dict[str, Any]
WINDOW = 5_000
JUDGING = (Kind.ACCEPTED, Kind.EDITED, Kind.DISMISSED, Kind.THUMBS_DOWN, Kind.CORRECTION)
"""What says whether an answer was right."""


@dataclass(frozen=True, slots=True)
class Said:
    """One event of feedback; times are Unix seconds."""

    id: str
    kind: Kind
    value: dict[str, Any] | None
    occurred_at: float
    received_at: float


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An inference whose payload was kept, and what was said of it, oldest first.

    `settled_late`: what its caller saw at first was a placeholder.
    """

    id: str
    input: dict[str, Any]
    output: dict[str, Any]
    entity_key: str | None
    subject_id: str
    arm: str
    step: str
    variant: str | None
    version: str | None
    degraded: bool
    status: str
    confidence: float | None
    created_at: float
    settled_late: bool
    said: tuple[Said, ...]


class CorrectionRepository:
    """Corrections and verdicts in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def judged(
        self, feature: str, since: float = 0.0, window: int = WINDOW
    ) -> AsyncIterator[JudgedAnswer]:
        """Every answer since a time that something was said of, oldest first.

        Reads the feature's inferences by keyset, a window at a time, and the payloads only of those that
        something was said of. It holds no transaction in between.

        Raises:
            Unavailable: the database is away.
        """
        own = inference.c
        after: tuple[float, str] = (since, "")
        while True:
            place = tuple_(own.created_at, own.id)
            ids = (
                select(own.created_at, own.id)
                .where(own.feature == feature, own.created_at >= since, place > after)
                .order_by(own.created_at, own.id)
                .limit(window)
            )
            async with self._database.reading() as connection:
                rows = (await connection.execute(ids)).all()
            if not rows:
                return
            last = (rows[-1].created_at, rows[-1].id)
            for answer in await self._answers((own.feature == feature) & (place > after) & (place <= last)):
                yield answer
            after = last

    async def _answers(self, which: ColumnElement[bool]) -> list[JudgedAnswer]:
        own, about = inference.c, feedback.c
        columns = (
            *(own.id, own.input, own.output, own.entity_key, own.subject_id, own.arm, own.step, own.variant),
            *(own.version, own.degraded, own.status, own.confidence, own.created_at),
        )
        said = (
            about.id.label("event_id"),
            about.kind,
            about.value,
            about.occurred_at,
            about.received_at,
        )
        wanted = (
            select(*columns, settled_late().label("settled_late"), *said)
            .join(feedback, about.inference_id == own.id)
            .where(which, about.kind.in_([kind.value for kind in JUDGING]))
            .order_by(own.created_at, own.id, about.occurred_at, about.id)
        )
        async with self._database.reading() as connection:
            rows = [dict(row) for row in (await connection.execute(wanted)).mappings()]
        whole = [row for row in rows if row["input"] is not None and row["output"] is not None]
        return [_answer(list(some)) for _, some in groupby(whole, key=lambda row: row["id"])]

    async def verdicts(self, feature: str) -> dict[str, Verdict]:
        """What was decided of a feature's inputs, by their hashes; raises Unavailable."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(review).where(review.c.feature == feature))
            found = [{k: v for k, v in row.items() if k != "feature"} for row in rows.mappings()]
        return {row["input_hash"]: Verdict(**row) for row in found}

    async def decide(self, feature: str, verdict: Verdict) -> None:
        """Stores a verdict; a later one on the same input takes its place. Raises Unavailable."""
        row = {
            "verdict": verdict.verdict,
            "output": verdict.output,
            "decided_by": verdict.decided_by,
            "reason": verdict.reason,
            "created_at": verdict.created_at,
        }
        new = self._database.insert(review).values(feature=feature, input_hash=verdict.input_hash, **row)
        statement = new.on_conflict_do_update(index_elements=["feature", "input_hash"], set_=row)
        async with self._database.transaction() as connection:
            await connection.execute(statement)


def _answer(rows: list[Row]) -> JudgedAnswer:
    first = {name: rows[0][name] for name in JudgedAnswer.__slots__ if name != "said"}
    said = tuple(
        Said(row["event_id"], Kind(row["kind"]), row["value"], row["occurred_at"], row["received_at"])
        for row in rows
    )
    return JudgedAnswer(**{**first, "settled_late": bool(first["settled_late"])}, said=said)
