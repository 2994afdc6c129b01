"""What was asked and answered lately, and whether somebody put it right."""

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import case, func, select

from trivium.domain.feedback import OVERRIDES, WITH_VALUE, Kind
from trivium.domain.inference import Arm
from trivium.domain.recording import REDACTED
from trivium.store.engine import Database
from trivium.store.tables import feedback, inference

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One inference of the treatment arm whose payload was kept.

    `judged`: it has feedback other than `shown`; `overridden`: somebody put it right or threw it away, and
    `corrected` is the right output where one was given.
    """

    id: str
    input: dict[str, Any]
    output: dict[str, Any]
    subject_id: str
    variant: str | None
    confidence: float | None
    fallback_reason: str | None
    judged: bool
    overridden: bool
    corrected: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Window:
    """The newest answers of a window of time; of `total` treated inferences, those that could be read."""

    total: int
    answers: list[Answer]


class EdgeCaseRepository:
    """Answers with what became of them; times are UTC Unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def window(self, feature: str, since: float, most: int) -> Window:
        """The newest `most` answers since a moment; raises Unavailable."""
        own = inference.c
        counted = select(func.count()).where(
            own.feature == feature,
            own.created_at >= since,
            own.arm == Arm.TREATMENT.value,
            own.status == "done",
        )
        async with self._database.reading() as connection:
            total = int((await connection.execute(counted)).scalar_one())
        answers: list[Answer] = []
        before: str | None = None
        while len(answers) < most:
            page = await self._page(feature, since, before)
            if not page:
                break
            before = page[-1]["id"]
            answers += [_answer(row) for row in page if REDACTED.encode() not in orjson.dumps(row["input"])]
        return Window(total, answers[:most])

    async def _page(self, feature: str, since: float, before: str | None) -> list[dict[str, Any]]:
        own, about = inference.c, feedback.c
        overridden = case((about.kind.in_([kind.value for kind in OVERRIDES]), 1), else_=0)
        judged = case((about.kind != Kind.SHOWN.value, 1), else_=0)
        said = select(
            about.inference_id, func.max(overridden).label("overridden"), func.max(judged).label("judged")
        )
        heard = said.group_by(about.inference_id).subquery()
        corrected = (
            select(about.value)
            .where(about.inference_id == own.id, about.kind.in_([kind.value for kind in WITH_VALUE]))
            .order_by(about.received_at.desc())
            .limit(1)
            .scalar_subquery()
            .label("corrected")
        )
        columns: list[Any] = [own.id, own.input, own.output, own.subject_id, own.variant, own.confidence]
        columns += [own.fallback_reason, heard.c.judged, heard.c.overridden, corrected]
        wanted = (
            select(*columns)
            .select_from(inference.outerjoin(heard, heard.c.inference_id == own.id))
            .where(own.feature == feature, own.created_at >= since, own.arm == Arm.TREATMENT.value)
            .where(own.status == "done", own.input.is_not(None))
        )
        if before is not None:
            wanted = wanted.where(own.id < before)
        async with self._database.reading() as connection:
            rows = await connection.execute(wanted.order_by(own.id.desc()).limit(PAGE))
            return [dict(row) for row in rows.mappings()]


def _answer(row: dict[str, Any]) -> Answer:
    flags = {name: bool(row[name]) for name in ("judged", "overridden")}
    return Answer(**{**row, **flags, "output": row["output"] or {}})
