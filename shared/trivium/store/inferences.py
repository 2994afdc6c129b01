"""Inferences and their attempts, as rows."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.domain.inference import Attempt, Inference
from trivium.store.bulk import upsert
from trivium.store.engine import Database
from trivium.store.tables import attempt, inference

Row = dict[str, Any]
_INFERENCE = tuple(column.name for column in inference.c)
_ATTEMPT = tuple(column.name for column in attempt.c)
_JSON = frozenset({"input", "output", "usage"})


def rows_of(made: Inference) -> tuple[Row, list[Row]]:
    """The row of an inference and those of its attempts."""
    by, answer = made.served_by, made.answer
    row = {
        "id": made.id,
        "feature": made.feature,
        "arm": made.arm.value,
        "subject_id": made.subject_id,
        "key_id": made.key_id,
        "entity_key": made.question.entity_key,
        "input": made.question.input,
        "input_hash": None,
        "output": answer.output,
        "step": by.step,
        "pattern": by.pattern,
        "variant": by.variant,
        "version": by.version,
        "model": by.model,
        "degraded": made.degraded,
        "fallback_reason": made.fallback_reason,
        "confidence": answer.confidence,
        "stale": answer.stale,
        "stale_reason": answer.stale_reason,
        "age_s": answer.age_s,
        "usage": asdict(made.usage) if made.usage else None,
        "cost_usd": made.cost_usd,
        "latency_ms": made.latency_ms,
        "deadline_ms": made.deadline_ms,
        "created_at": made.created_at,
        "status": made.status,
        "cached": made.cached,
    }
    return row, attempt_rows(made.id, made.feature, made.key_id, made.created_at, made.attempts)


def attempt_rows(
    inference_id: str, feature: str, key_id: str | None, created_at: float, attempts: Sequence[Attempt]
) -> list[Row]:
    """The ledger's rows of what was tried for one inference, in order."""
    return [
        {
            "inference_id": inference_id,
            "number": number,
            "feature": feature,
            "step": tried.served_by.step,
            "pattern": tried.served_by.pattern,
            "variant": tried.served_by.variant,
            "version": tried.served_by.version,
            "target": tried.target,
            "outcome": tried.outcome,
            "detail": tried.detail,
            "input_tokens": tried.usage.input if tried.usage else None,
            "cached_input_tokens": tried.usage.cached_input if tried.usage else None,
            "output_tokens": tried.usage.output if tried.usage else None,
            "cache_write_tokens": tried.usage.cache_write if tried.usage else None,
            "reasoning_tokens": tried.usage.reasoning if tried.usage else None,
            "cost_usd": tried.cost_usd,
            "latency_ms": tried.latency_ms,
            "created_at": created_at,
            "key_id": key_id,
        }
        for number, tried in enumerate(attempts, start=1)
    ]


async def add_attempts(database: Database, connection: AsyncConnection, rows: list[Row]) -> None:
    """Stores rows of the ledger, within a transaction; those that stand already are left as they are."""
    await upsert(
        database, connection, attempt, _ATTEMPT, [_values(row, _ATTEMPT) for row in rows], replace=False
    )


def _values(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(
        orjson.dumps(row[name]).decode() if name in _JSON and row.get(name) is not None else row.get(name)
        for name in columns
    )


class InferenceRepository:
    """Inferences in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: list[Row], attempts: list[Row]) -> None:
        """Stores rows in one transaction; those that stand already are left as they are."""
        # A journal may have been written by the version before.
        rows = [{"status": "done", "cached": False, **row} for row in rows]
        async with self._database.transaction() as connection:
            await connection.execute(select(1))
            values = [_values(row, _INFERENCE) for row in rows]
            await upsert(self._database, connection, inference, _INFERENCE, values, replace=False)
            await add_attempts(self._database, connection, attempts)

    async def settle(self, inference_id: str, change: Row) -> Row | None:
        """Gives an inference that was generating its answer; one that has it already keeps it.

        Returns its row as it stands then; None if it has not been stored yet.
        """
        mine = inference.c.id == inference_id
        own = mine & (inference.c.status == "generating")
        async with self._database.transaction() as connection:
            await connection.execute(update(inference).where(own).values(change))
            row = (await connection.execute(select(inference).where(mine))).mappings().first()
            return dict(row) if row else None

    async def find(self, inference_id: str) -> Row | None:
        """One inference's row."""
        async with self._database.transaction() as connection:
            statement = select(inference).where(inference.c.id == inference_id)
            row = (await connection.execute(statement)).mappings().first()
            return dict(row) if row else None

    async def attempts_of(self, inference_id: str) -> list[Row]:
        """The attempts of one inference, in order."""
        async with self._database.transaction() as connection:
            statement = select(attempt).where(attempt.c.inference_id == inference_id)
            rows = await connection.execute(statement.order_by(attempt.c.number))
            return [dict(row) for row in rows.mappings()]
