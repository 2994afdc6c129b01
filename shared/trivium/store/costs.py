"""What was spent, summed up from the ledger of attempts; never row by row."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Integer, case, cast, func, select

from trivium.domain.projection import Day, Projection, project
from trivium.store.engine import Database
from trivium.store.tables import attempt, inference

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Spent:
    """What one target was asked, and what that cost."""

    variant: str | None
    target: str
    attempts: int
    failed: int
    unpriced: int
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What a feature or a route cost, and would cost."""

    name: str
    budget_usd: float | None
    month_usd: float
    projection: Projection
    by_target: list[Spent]


class CostRepository:
    """Sums over the ledger; times are UTC Unix seconds, since and until."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, name: str, days: int, budget_usd: float | None) -> Costs:
        """All of it, of the last days, today included; raises Unavailable.

        The traffic is that of the days since the first on which something came. Today is left out of it,
        unless there is no other day.
        """
        now = datetime.now(UTC)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        since, until = today - (days - 1) * DAY_S, now.timestamp() + 1
        counted = await self.daily(name, since, until)
        this_day = int(today // DAY_S)
        whole = [day for day in counted if day.day < this_day]
        number = this_day - whole[0].day if whole else len(counted)
        month = today - (now.day - 1) * DAY_S
        return Costs(
            name,
            budget_usd,
            await self.spent(f"feature:{name}", month, until),
            project(whole or counted, number, budget_usd),
            await self.by_target(name, since, until),
        )

    async def spent(self, bucket: str, since: float, until: float) -> float:
        """USD of `feature:<name>` or `key:<id>`; attempts without a known price count as nothing.

        Raises:
            Unavailable: the database is away.
        """
        kind, _, name = bucket.partition(":")
        whose = attempt.c.feature if kind == "feature" else attempt.c.key_id
        wanted = select(func.coalesce(func.sum(attempt.c.cost_usd), 0.0)).where(
            whose == name, attempt.c.created_at >= since, attempt.c.created_at < until
        )
        async with self._database.reading() as connection:
            return float((await connection.execute(wanted)).scalar_one())

    async def daily(self, feature: str, since: float, until: float) -> list[Day]:
        """The days on which something came, in order; raises Unavailable."""
        own = inference.c
        day = cast(func.floor(own.created_at / DAY_S), Integer).label("day")
        treated = own.arm == "treatment"
        cost = case((treated, own.cost_usd))
        wanted = (
            select(
                day,
                func.count().label("eligible"),
                func.sum(case((treated, 1), else_=0)).label("treated"),
                func.count(cost).label("priced"),
                func.coalesce(func.sum(cost), 0.0).label("cost_usd"),
                func.coalesce(func.sum(cost * cost), 0.0).label("cost_squares"),
            )
            .where(own.feature == feature, own.created_at >= since, own.created_at < until)
            .group_by(day)
            .order_by(day)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted)).mappings()
            return [Day(**row) for row in rows]

    async def by_target(self, feature: str, since: float, until: float) -> list[Spent]:
        """What each target of each variant was asked, the dearest first; raises Unavailable."""
        own = attempt.c
        tokens = {
            "input": own.input_tokens,
            "cached_input": own.cached_input_tokens,
            "cache_write": own.cache_write_tokens,
            "output": own.output_tokens,
            "reasoning": own.reasoning_tokens,
        }
        cost = func.coalesce(func.sum(own.cost_usd), 0.0).label("cost_usd")
        wanted = (
            select(
                own.variant,
                own.target,
                func.count().label("attempts"),
                func.sum(case((own.outcome == "ok", 0), else_=1)).label("failed"),
                func.sum(case((own.cost_usd.is_(None), 1), else_=0)).label("unpriced"),
                *(func.coalesce(func.sum(column), 0).label(name) for name, column in tokens.items()),
                cost,
            )
            .where(own.feature == feature, own.created_at >= since, own.created_at < until)
            .group_by(own.variant, own.target)
            .order_by(cost.desc(), own.target)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted)).mappings()
            return [Spent(**row) for row in rows]
