"""What became of a feature's answers, summed up by the database; never row by row."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Select,
    String,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from trivium.domain.estimate import ClusterSums, Estimate, quantile_ranks
from trivium.domain.feedback import OVERRIDES, Kind
from trivium.domain.inference import Arm
from trivium.domain.scorecard import ArmOutcomes, Metrics, metrics_of
from trivium.store.engine import Database
from trivium.store.tables import feedback, inference

DAY_S = 86_400
By = Literal["day", "variant"]


@dataclass(frozen=True, slots=True)
class Part:
    """One arm's metrics of one day (UTC, counted from 1970) or of one variant's version."""

    part: str
    arm: Arm
    outcomes: ArmOutcomes


class OutcomeRepository:
    """Sums over inferences and their feedback; times are UTC Unix seconds, since and until.

    Feedback counts for the inference that it is about, whenever it came. Answers that their callers did not
    wait for count for nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def arms(self, feature: str, since: float, until: float, slow_ms: float) -> dict[Arm, ArmOutcomes]:
        """What the subjects of each arm met with; `slow` are latencies over `slow_ms`. Raises Unavailable."""
        found = await self._outcomes(feature, since, until, slow_ms, None)
        return {part.arm: part.outcomes for part in found}

    async def parts(self, feature: str, since: float, until: float, slow_ms: float, by: By) -> list[Part]:
        """The same by day or by who answered, in order; raises Unavailable."""
        own = inference.c
        key: ColumnElement[Any] = (
            cast(func.floor(own.created_at / DAY_S), Integer)
            if by == "day"
            else func.coalesce(own.variant + "/" + own.version, own.step)
        )
        return await self._outcomes(feature, since, until, slow_ms, key)

    async def metrics(self, feature: str, since: float, until: float, slow_ms: float) -> dict[Arm, Metrics]:
        """The four metrics of each arm; raises Unavailable."""
        outcomes = await self.arms(feature, since, until, slow_ms)
        made = {}
        for arm, found in outcomes.items():
            p50, p99 = await self._latencies(feature, since, until, arm, found.requests)
            made[arm] = metrics_of(found, p50, p99)
        return made

    async def _outcomes(
        self, feature: str, since: float, until: float, slow_ms: float, key: ColumnElement[Any] | None
    ) -> list[Part]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(_by_arm(feature, since, until, slow_ms, key))).mappings()
            return [_part(dict(row)) for row in rows]

    async def _latencies(
        self, feature: str, since: float, until: float, arm: Arm, n: int
    ) -> tuple[Estimate | None, Estimate | None]:
        """P50 and P99 with their intervals, by rank."""
        if not n:
            return None, None
        ranks = {q: quantile_ranks(n, q) for q in (0.5, 0.99)}
        own = inference.c
        place = func.row_number().over(order_by=own.latency_ms)
        ordered = select(own.latency_ms, place.label("place")).where(
            *_within(feature, since, until), own.arm == arm.value
        )
        numbered = ordered.subquery()
        wanted = {rank for some in ranks.values() for rank in some}
        statement = select(numbered.c.place, numbered.c.latency_ms).where(numbered.c.place.in_(wanted))
        async with self._database.reading() as connection:
            rows = await connection.execute(statement)
            at: dict[int, float] = {row.place: row.latency_ms for row in rows}
        # What came between the two queries only adds places.
        p50, p99 = (Estimate(at[v], at[low], at[high], n) for v, low, high in ranks.values())
        return p50, p99


def _within(feature: str, since: float, until: float) -> list[ColumnElement[bool]]:
    own = inference.c
    return [
        own.feature == feature,
        own.created_at >= since,
        own.created_at < until,
        own.status != "left",
    ]


def _by_arm(
    feature: str, since: float, until: float, slow_ms: float, key: ColumnElement[Any] | None
) -> Select[Any]:
    """First by subject, whose requests are not independent of each other, then the sums of a ratio."""
    own, about = inference.c, feedback.c
    within = _within(feature, since, until)
    said = (
        select(
            about.inference_id,
            func.max(case((about.kind.in_([kind.value for kind in OVERRIDES]), 1), else_=0)).label("over"),
        )
        .join(inference, own.id == about.inference_id)
        .where(*within, about.kind != Kind.SHOWN.value)
        .group_by(about.inference_id)
        .subquery()
    )
    judged = case((said.c.over.is_not(None), 1), else_=0)
    part = cast(literal("") if key is None else key, String)
    bad = case((or_(own.degraded, own.status == "failed"), 1), else_=0)
    by_subject = (
        select(
            part.label("part"),
            own.arm,
            _sum(1).label("n"),
            _sum(bad).label("errors"),
            _sum(case((own.latency_ms > slow_ms, 1), else_=0)).label("slow"),
            _sum(judged).label("judged"),
            _sum(func.coalesce(said.c.over, 0)).label("overrides"),
        )
        .select_from(inference.outerjoin(said, said.c.inference_id == own.id))
        .where(*within)
        .group_by("part", own.arm, own.subject_id)
        .subquery()
    )
    one = by_subject.c
    columns = [one.part, one.arm, func.count().label("subjects")]
    for name, n in (("errors", one.n), ("slow", one.n), ("overrides", one.judged)):
        k = one[name]
        columns += [
            func.sum(case((n > 0, 1), else_=0)).label(f"{name}_units"),
            func.sum(n).label(f"{name}_n"),
            func.sum(k).label(f"{name}_k"),
            func.sum(n * n).label(f"{name}_nn"),
            func.sum(k * k).label(f"{name}_kk"),
            func.sum(n * k).label(f"{name}_nk"),
        ]
    return select(*columns).group_by(one.part, one.arm).order_by(one.part, one.arm)


def _sum(of: Any) -> ColumnElement[float]:
    """As floats: the squares of a busy subject's counts go past what an integer holds."""
    return cast(func.sum(of), Float)


def _part(row: dict[str, Any]) -> Part:
    sums = {
        name: ClusterSums(
            int(row[f"{name}_units"]), *(float(row[f"{name}_{of}"]) for of in ("n", "k", "nn", "kk", "nk"))
        )
        for name in ("errors", "slow", "overrides")
    }
    interacted = sums["overrides"].units
    outcomes = ArmOutcomes(int(row["subjects"]), int(sums["errors"].n), **sums, interacted=interacted)
    return Part(str(row["part"]), Arm(row["arm"]), outcomes)
