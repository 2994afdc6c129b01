"""What users have asked, as far as it was kept, with what they said was right."""

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select

from trivium.domain.feedback import WITH_VALUE
from trivium.domain.recording import REDACTED
from trivium.store.engine import Database
from trivium.store.tables import feedback, inference

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class RecordedQuestion:
    """A question that was asked; `corrected` is the right output, where a user has given one."""

    input: dict[str, Any]
    entity_key: str | None
    corrected: dict[str, Any] | None


class QuestionRepository:
    """Questions in the database, each once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, feature: str, most: int) -> list[RecordedQuestion]:
        """The newest different questions whose payload was kept whole, so many; raises Unavailable."""
        found: dict[bytes, RecordedQuestion] = {}
        before: str | None = None
        while len(found) < most:
            page = await self._page(feature, before)
            if not page:
                break
            before = page[-1]["id"]
            for row in page:
                key = orjson.dumps([row["input"], row["entity_key"]], option=orjson.OPT_SORT_KEYS)
                if REDACTED.encode() not in key and key not in found and len(found) < most:
                    found[key] = RecordedQuestion(row["input"], row["entity_key"], row["corrected"])
        return list(found.values())

    async def _page(self, feature: str, before: str | None) -> list[dict[str, Any]]:
        own, about = inference.c, feedback.c
        corrected = (
            select(about.value)
            .where(about.inference_id == own.id, about.kind.in_([kind.value for kind in WITH_VALUE]))
            .order_by(about.received_at.desc())
            .limit(1)
            .scalar_subquery()
            .label("corrected")
        )
        wanted = select(own.id, own.input, own.entity_key, corrected).where(
            own.feature == feature, own.input.is_not(None)
        )
        if before is not None:
            wanted = wanted.where(own.id < before)
        async with self._database.reading() as connection:
            rows = await connection.execute(wanted.order_by(own.id.desc()).limit(PAGE))
            return [dict(row) for row in rows.mappings()]
