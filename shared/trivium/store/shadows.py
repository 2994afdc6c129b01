"""What candidates would have answered, as rows beside the ledger of what that cost."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select

from trivium.domain.estimate import Estimate, share
from trivium.store.engine import Database, insert_ignoring
from trivium.store.inferences import Row, add_attempts
from trivium.store.tables import inference, shadow_answer


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a candidate did beside one version of the served variant.

    `agreed` is the share of the same outputs among those where both answered; `failed` candidates did not.
    """

    served_variant: str | None
    served_version: str | None
    variant: str
    version: str
    asked: int
    failed: int
    agreed: Estimate | None
    mean_latency_ms: float
    cost_usd: float


class ShadowRepository:
    """Shadow answers in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: list[Row], attempts: list[Row]) -> None:
        """Stores answers and what they cost in one transaction; those that stand already stay."""
        async with self._database.transaction() as connection:
            await insert_ignoring(connection, self._database.insert(shadow_answer), rows)
            await add_attempts(self._database, connection, attempts)

    async def agreement(self, feature: str, variant: str, since: float) -> list[Agreement]:
        """How a candidate's versions did beside those of the served variant, the newest first."""
        own = shadow_answer.c
        versions = (own.served_variant, own.served_version, own.variant, own.version)
        ok = case((own.outcome == "ok", 1), else_=0)
        wanted = (
            select(
                *versions,
                func.count().label("asked"),
                func.sum(1 - ok).label("failed"),
                func.count(own.agrees).label("both"),
                func.sum(case((own.agrees.is_(True), 1), else_=0)).label("agreed"),
                func.avg(own.latency_ms).label("mean_latency_ms"),
                func.coalesce(func.sum(own.cost_usd), 0.0).label("cost_usd"),
            )
            .where(own.feature == feature, own.variant == variant, own.created_at >= since)
            .group_by(*versions)
            .order_by(func.max(own.created_at).desc())
        )
        async with self._database.reading() as connection:
            rows = [dict(row) for row in (await connection.execute(wanted)).mappings()]
        return [Agreement(agreed=share(row.pop("agreed"), row.pop("both")), **row) for row in rows]

    async def disagreements(self, feature: str, variant: str, since: float, most: int) -> list[Row]:
        """The newest answers that differed: the input, what was served and what the candidate said.

        Inputs and outputs are there as far as the feature's recording keeps them.
        """
        own, was = shadow_answer.c, inference.c
        columns: list[Any] = [own.inference_id, own.created_at, was.input, was.output.label("served")]
        wanted = (
            select(*columns, own.output.label("candidate"))
            .join(inference, was.id == own.inference_id, isouter=True)
            .where(own.feature == feature, own.variant == variant, own.created_at >= since)
            .where(own.agrees.is_(False))
            .order_by(own.created_at.desc())
            .limit(most)
        )
        async with self._database.reading() as connection:
            return [dict(row) for row in (await connection.execute(wanted)).mappings()]
