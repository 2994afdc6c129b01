"""Figures of the database that are watched: runs, and what months cost. For dashboards and alerts."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import case, func, select

from trivium.store.engine import Database
from trivium.store.runs import ACTIVE, BULK
from trivium.store.tables import attempt, precompute_chunk, precompute_run

DAY_S = 86_400
PACE_DAYS = 7
_STATES = {"done_with_errors": "done"}


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Runs by (feature, state), and by feature for how many seconds the most silent of them has been so."""

    counts: dict[tuple[str, str], int]
    silent_s: dict[str, float]


class FigureRepository:
    """Sums and counts; times are UTC Unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def runs(self) -> RunFigures:
        """Runs that are queued or running, and those but for refreshes that ended in the last 24 hours.

        A run is silent since its last chunk ended, or since it began. While a chunk is put off to a moment
        (a vendor's batch is waited for, or what failed is tried again) it is silent only from then on.

        Raises:
            Unavailable: the database is away.
        """
        run, chunk = precompute_run.c, precompute_chunk.c
        own = chunk.run_id == run.id
        ended = select(func.max(chunk.finished_at)).where(own).scalar_subquery()
        put_off = select(func.max(chunk.not_before)).where(own, chunk.state == "pending").scalar_subquery()
        running = select(run.feature, run.started_at, ended.label("ended"), put_off.label("put_off")).where(
            run.state == "running"
        )
        lately = (run.priority == BULK) & (run.finished_at > time.time() - DAY_S)
        counted = (
            select(run.feature, run.state, func.count().label("n"))
            .where(run.state.in_(ACTIVE) | lately)
            .group_by(run.feature, run.state)
        )
        counts: Counter[tuple[str, str]] = Counter()
        silent_s: dict[str, float] = {}
        async with self._database.reading() as connection:
            for row in await connection.execute(counted):
                counts[row.feature, _STATES.get(row.state, row.state)] += row.n
            now = float((await connection.execute(select(self._database.now))).scalar_one())
            for row in await connection.execute(running):
                heard = max(moment for moment in row[1:] if moment is not None)
                silent_s[row.feature] = max(silent_s.get(row.feature, 0.0), now - heard)
        return RunFigures(dict(counts), silent_s)

    async def month_costs(self, names: Sequence[str], now: float | None = None) -> dict[str, float]:
        """USD that this month (UTC) will have cost, by feature or route; what has no known price is left out.

        What it cost so far, and for the rest of it the mean of the last PACE_DAYS days, or of the days since
        the first attempt if that is later, at least one.

        Raises:
            Unavailable: the database is away.
        """
        at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
        month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        until = at.timestamp()
        lately = until - PACE_DAYS * DAY_S
        own = attempt.c
        spent = func.coalesce(own.cost_usd, 0.0)
        wanted = (
            select(
                own.feature,
                func.sum(case((own.created_at >= month.timestamp(), spent), else_=0.0)).label("month"),
                func.sum(case((own.created_at >= lately, spent), else_=0.0)).label("lately"),
                func.min(case((own.created_at >= lately, own.created_at))).label("first"),
            )
            .where(own.feature.in_(names), own.created_at < until)
            .where(own.created_at >= min(lately, month.timestamp()))
            .group_by(own.feature)
        )
        found = {}
        async with self._database.reading() as connection:
            for row in await connection.execute(wanted):
                days = max(1.0, (until - (row.first or until)) / DAY_S)
                left_days = (following.timestamp() - until) / DAY_S
                found[row.feature] = float(row.month) + float(row.lately) / days * left_days
        return found
