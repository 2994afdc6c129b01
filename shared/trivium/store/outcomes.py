"""What became of a feature's answers, summed up by the database; never row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal,
    not_,
    or_,
    select,
)

from trivium.domain.estimate import ClusterSums, Estimate, quantile_ranks
from trivium.domain.feedback import OVERRIDES, Kind
from trivium.domain.inference import GENERATING_S, Arm
from trivium.domain.scorecard import ArmOutcomes, Metrics, metrics_of
from trivium.store.engine import Database
from trivium.store.tables import feedback, inference

DAY_S = 86_400
Spans = Sequence[tuple[float, str]]
By = Literal["day", "variant"] | Spans
"""Spans have a name each, and go from their beginning (Unix seconds) to that of the next."""
Cell = tuple[str, Arm]


@dataclass(frozen=True, slots=True)
class Part:
    """One arm's metrics of one day (UTC, counted from 1970), of one variant's version, or of one span."""

    part: str
    arm: Arm
    outcomes: ArmOutcomes
    metrics: Metrics


class OutcomeRepository:
    """Sums over inferences and their feedback; times are UTC Unix seconds, since and until.

    Feedback counts for the inference that it is about, whenever it came. Answers that their callers did not
    wait for count for nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def arms(self, feature: str, since: float, until: float, slow_ms: float) -> dict[Arm, ArmOutcomes]:
        """What the subjects of each arm met with; `slow` are latencies over `slow_ms`. Raises Unavailable."""
        found = await self._outcomes(feature, since, until, slow_ms, _key([]))
        return {arm: outcomes for (_, arm), outcomes in found.items()}

    async def parts(self, feature: str, since: float, until: float, slow_ms: float, by: By) -> list[Part]:
        """Outcomes and metrics by day, by who answered or by span, in order; raises Unavailable."""
        key = _key(by)
        outcomes = await self._outcomes(feature, since, until, slow_ms, key)
        latencies = await self._latencies(feature, since, until, key, outcomes)
        return [
            Part(part, arm, found, metrics_of(found, *latencies[part, arm]))
            for (part, arm), found in outcomes.items()
        ]

    async def metrics(self, feature: str, since: float, until: float, slow_ms: float) -> dict[Arm, Metrics]:
        """The four metrics of each arm; raises Unavailable."""
        parts = await self.parts(feature, since, until, slow_ms, [])
        return {one.arm: one.metrics for one in parts}

    async def _outcomes(
        self, feature: str, since: float, until: float, slow_ms: float, key: ColumnElement[Any]
    ) -> dict[Cell, ArmOutcomes]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(_by_arm(feature, since, until, slow_ms, key))).mappings()
            return {(str(row["part"]), Arm(row["arm"])): _outcomes_of(dict(row)) for row in rows}

    async def _latencies(
        self,
        feature: str,
        since: float,
        until: float,
        key: ColumnElement[Any],
        outcomes: dict[Cell, ArmOutcomes],
    ) -> dict[Cell, tuple[Estimate | None, Estimate | None]]:
        """P50 and P99 of each part and arm with their intervals, by rank."""
        ranks = {
            cell: [quantile_ranks(found.requests, q) for q in (0.5, 0.99)] for cell, found in outcomes.items()
        }
        if not ranks:
            return {}
        at: dict[tuple[Cell, int], float] = {}
        async with self._database.reading() as connection:
            for row in await connection.execute(_at_ranks(feature, since, until, key, ranks)):
                at[(str(row.part), Arm(row.arm)), row.place] = row.latency_ms

        def estimate(cell: Cell, which: tuple[int, int, int]) -> Estimate | None:
            # What came between the two queries only adds places; what retention has taken leaves none.
            found = [at.get((cell, rank)) for rank in which]
            value, low, high = found
            if value is None or low is None or high is None:
                return None
            return Estimate(value, low, high, outcomes[cell].requests)

        return {cell: (estimate(cell, p50), estimate(cell, p99)) for cell, (p50, p99) in ranks.items()}


def _key(by: By) -> ColumnElement[Any]:
    own = inference.c
    if by == "day":
        return cast(cast(func.floor(own.created_at / DAY_S), Integer), String)
    if by == "variant":
        return func.coalesce(own.variant + "/" + own.version, own.step)
    spans = [(own.created_at >= since, name) for since, name in sorted(by, reverse=True)]
    return case(*spans, else_="") if spans else cast(literal(""), String)


def _at_ranks(
    feature: str,
    since: float,
    until: float,
    key: ColumnElement[Any],
    ranks: dict[Cell, list[tuple[int, int, int]]],
) -> Select[Any]:
    """The latencies at some places of each part and arm, when they stand in order."""
    own = inference.c
    answers = select(key.label("part"), own.arm, own.latency_ms).where(*_within(feature, since, until))
    of = answers.subquery().c
    place = func.row_number().over(partition_by=[of.part, of.arm], order_by=of.latency_ms)
    numbered = select(of.part, of.arm, of.latency_ms, place.label("place")).subquery()
    wanted = [
        and_(
            numbered.c.part == part,
            numbered.c.arm == arm.value,
            numbered.c.place.in_({rank for some in three for rank in some}),
        )
        for (part, arm), three in ranks.items()
    ]
    return select(numbered).where(or_(*wanted))


def _within(feature: str, since: float, until: float) -> list[ColumnElement[bool]]:
    own = inference.c
    return [
        own.feature == feature,
        own.created_at >= since,
        own.created_at < until,
        own.status != "left",
    ]


def _by_arm(feature: str, since: float, until: float, slow_ms: float, key: ColumnElement[Any]) -> Select[Any]:
    """First by subject, whose requests are not independent of each other, then the sums of a ratio."""
    own, about = inference.c, feedback.c
    within = _within(feature, since, until)
    who = key.label("part"), own.arm, own.subject_id
    answered = select(
        *who,
        literal(1).label("n"),
        case((_bad(until), 1), else_=0).label("bad"),
        case((own.latency_ms > slow_ms, 1), else_=0).label("slow"),
        literal(0).label("judged"),
        literal(0).label("over"),
    ).where(*within)
    overridden = case((about.kind.in_([kind.value for kind in OVERRIDES]), 1), else_=0)
    # Beside the answers and not joined to them: PostgreSQL takes a window that is newer than its statistics
    # for one row, and would read all feedback again for every answer in it.
    judged = (
        select(*who, literal(0), literal(0), literal(0), literal(1), func.max(overridden))
        .join(feedback, about.inference_id == own.id)
        .where(*within, about.kind != Kind.SHOWN.value)
        .group_by(own.id)
    )
    each = answered.union_all(judged).subquery().c
    by_subject = (
        select(
            each.part,
            each.arm,
            _sum(each.n).label("n"),
            _sum(each.bad).label("errors"),
            _sum(each.slow).label("slow"),
            _sum(each.judged).label("judged"),
            _sum(each.over).label("overrides"),
        )
        .group_by(each.part, each.arm, each.subject_id)
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


def _bad(until: float) -> ColumnElement[bool]:
    """Degraded or failed; a placeholder only once its answer will not come any more."""
    own = inference.c
    pending = and_(own.status == "generating", own.created_at >= until - GENERATING_S)
    return or_(own.status == "failed", and_(own.degraded, not_(pending)))


def _sum(of: Any) -> ColumnElement[float]:
    """As floats: the squares of a busy subject's counts go past what an integer holds."""
    return cast(func.sum(of), Float)


def _outcomes_of(row: dict[str, Any]) -> ArmOutcomes:
    sums = {
        name: ClusterSums(
            int(row[f"{name}_units"]), *(float(row[f"{name}_{of}"]) for of in ("n", "k", "nn", "kk", "nk"))
        )
        for name in ("errors", "slow", "overrides")
    }
    interacted = sums["overrides"].units
    return ArmOutcomes(int(row["subjects"]), int(sums["errors"].n), **sums, interacted=interacted)
