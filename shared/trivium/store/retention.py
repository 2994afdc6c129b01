"""What may go: payloads after a feature's retention, whole inferences after the ledger's."""

import time
from collections.abc import Awaitable, Callable

from sqlalchemy import ColumnElement, delete, null, or_, select, update

from trivium.store.engine import Database
from trivium.store.tables import attempt, feedback, inference, shadow_answer

DAY_S = 86_400
LEDGER_DAYS = 62
"""Costs are kept so long at least: a month's budget, and the month before."""
PORTION = 1_000


class RetentionRepository:
    """Forgets in portions, each a short transaction of its own; nothing is read but ids."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self, name: str, retention_days: float, portion: int = PORTION) -> tuple[int, int]:
        """Takes away a feature's or a route's payloads, then its inferences with attempts and feedback.

        Returns how many payloads and how many inferences went; what was cut short goes on the next time.

        Raises:
            Unavailable: the database is away; portions until then are gone.
        """
        now = time.time()
        kept_days = max(retention_days, LEDGER_DAYS)
        rows = await self._repeat(self._drop, name, now - kept_days * DAY_S, portion)
        payloads = 0
        if retention_days < kept_days:
            payloads = await self._repeat(self._strip, name, now - retention_days * DAY_S, portion)
        return payloads, rows

    async def forget_shadows(self, name: str, retention_days: float, portion: int = PORTION) -> int:
        """Takes away what a feature's candidates said, then that they were asked, with what that cost.

        Returns how many outputs and whole answers went.

        Raises:
            Unavailable: the database is away; portions until then are gone.
        """
        now = time.time()
        before = now - max(retention_days, LEDGER_DAYS) * DAY_S
        dropped = await self._repeat(self._drop_shadows, name, before, portion)
        return dropped + await self._repeat(self._strip_shadows, name, now - retention_days * DAY_S, portion)

    async def _strip_shadows(self, name: str, before: float, portion: int) -> int:
        own = shadow_answer.c
        old = select(own.id).where(own.feature == name, own.created_at < before, own.output.is_not(null()))
        old = old.order_by(own.created_at).limit(portion).with_for_update(skip_locked=True)
        async with self._database.transaction() as connection:
            ids: list[str] = list((await connection.execute(old)).scalars())
            if ids:
                bare = update(shadow_answer).where(own.id.in_(ids)).values(output=null())
                await connection.execute(bare)
        return len(ids)

    async def _drop_shadows(self, name: str, before: float, portion: int) -> int:
        own = shadow_answer.c
        old = select(own.id).where(own.feature == name, own.created_at < before)
        old = old.order_by(own.created_at).limit(portion).with_for_update(skip_locked=True)
        async with self._database.transaction() as connection:
            ids: list[str] = list((await connection.execute(old)).scalars())
            if ids:
                await connection.execute(delete(attempt).where(attempt.c.inference_id.in_(ids)))
                await connection.execute(delete(shadow_answer).where(own.id.in_(ids)))
        return len(ids)

    async def _repeat(
        self, step: Callable[[str, float, int], Awaitable[int]], name: str, before: float, portion: int
    ) -> int:
        total = 0
        while count := await step(name, before, portion):
            total += count
        return total

    async def _drop(self, name: str, before: float, portion: int) -> int:
        own = inference.c
        old = select(own.id).where(own.feature == name, own.created_at < before)
        old = old.order_by(own.created_at).limit(portion).with_for_update(skip_locked=True)
        async with self._database.transaction() as connection:
            ids: list[str] = list((await connection.execute(old)).scalars())
            if not ids:
                return 0
            await connection.execute(delete(attempt).where(attempt.c.inference_id.in_(ids)))
            await connection.execute(delete(feedback).where(feedback.c.inference_id.in_(ids)))
            await connection.execute(delete(inference).where(own.id.in_(ids)))
        return len(ids)

    async def _strip(self, name: str, before: float, portion: int) -> int:
        own = inference.c
        kept: ColumnElement[bool] = or_(own.input.is_not(null()), own.output.is_not(null()))
        old = select(own.id).where(own.feature == name, own.created_at < before, kept)
        old = old.order_by(own.created_at).limit(portion).with_for_update(skip_locked=True)
        nothing = {"input": null(), "output": null(), "input_hash": None}
        async with self._database.transaction() as connection:
            ids: list[str] = list((await connection.execute(old)).scalars())
            if not ids:
                return 0
            await connection.execute(update(inference).where(own.id.in_(ids)).values(nothing))
            values = update(feedback).where(feedback.c.inference_id.in_(ids)).values(value=null())
            await connection.execute(values)
        return len(ids)
