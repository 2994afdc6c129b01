"""What drift looks at, what it is held to, and what was found."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, case, func, select

from trivium.domain.drift import DriftReport, Observation, report_of
from trivium.domain.feedback import OVERRIDES, Kind
from trivium.domain.inference import Arm
from trivium.store.engine import Database
from trivium.store.tables import attempt, drift_reference, drift_report, feedback, inference

PAGE = 2_000
"""Inferences that are looked through at once."""
PAYLOADS = 500
LOOKED_THROUGH = 100
"""Pages after which an older window is not looked for any more."""


@dataclass(frozen=True, slots=True)
class Served:
    """A variant's version of a feature."""

    feature: str
    variant: str
    version: str


@dataclass(frozen=True, slots=True)
class StoredReference:
    """What windows are compared with. `until` is the time of its last inference, None if it is of a file."""

    source: str
    rows: int
    until: float | None
    profile: dict[str, Any]
    created_at: float


class DriftRepository:
    """Windows of inferences, references and reports; times are UTC Unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, served: Served, count: int, since: float = 0.0) -> list[Observation]:
        """The first inferences that a version was asked for, in order; raises Unavailable."""
        found: list[Row[Any]] = []
        async for page in self._pages(served.feature, since, newest=False):
            found += _of_version(page, served)
            if len(found) >= count:
                break
        return await self._observations(served, found[:count])

    async def newest(self, served: Served, count: int, after: float | None = None) -> list[Observation]:
        """The last inferences that a version was asked for after a time, in order; raises Unavailable."""
        found: list[Row[Any]] = []
        looked = 0
        async for page in self._pages(served.feature, after, newest=True):
            found += _of_version(page, served)
            looked += 1
            if len(found) >= count or looked == LOOKED_THROUGH:
                break
        return await self._observations(served, found[:count][::-1])

    async def reference(self, served: Served) -> StoredReference | None:
        """What is stored for a version; raises Unavailable."""
        of = drift_reference.c
        wanted = select(of.source, of.rows, of.data, of.created_at).where(*_is(of, served))
        async with self._database.reading() as connection:
            row = (await connection.execute(wanted)).first()
        if row is None:
            return None
        return StoredReference(row.source, row.rows, row.data["until"], row.data["profile"], row.created_at)

    async def put_reference(self, served: Served, made: StoredReference) -> None:
        """Stores a version's reference in the place of the one before; raises Unavailable."""
        values = {
            "source": made.source,
            "rows": made.rows,
            "data": {"until": made.until, "profile": made.profile},
            "created_at": made.created_at,
        }
        keys = {"feature": served.feature, "variant": served.variant, "version": served.version}
        new = self._database.insert(drift_reference).values(**keys, **values)
        new = new.on_conflict_do_update(index_elements=list(keys), set_=values)
        async with self._database.transaction() as connection:
            await connection.execute(new)

    async def add_report(self, report_id: str, report: DriftReport) -> bool:
        """Stores a report; False if one with the same id stands already. Raises Unavailable."""
        of, now = drift_report.c, time.time()
        new = self._database.insert(drift_report).values(
            id=report_id,
            feature=report.feature,
            variant=report.variant,
            version=report.version,
            window_from=report.window_from,
            window_until=report.window_until,
            rows=report.rows,
            columns=report.as_object(),
            drifted=report.drifted,
            created_at=now,
        )
        async with self._database.transaction() as connection:
            added = await connection.execute(new.on_conflict_do_nothing().returning(of.id))
            return added.first() is not None

    async def has_report(self, report_id: str) -> bool:
        """Whether a report stands; raises Unavailable."""
        wanted = select(drift_report.c.id).where(drift_report.c.id == report_id)
        async with self._database.reading() as connection:
            return (await connection.execute(wanted)).first() is not None

    async def last_report(self, served: Served) -> DriftReport | None:
        """The newest of a version; raises Unavailable."""
        of = drift_report.c
        wanted = select(of.columns).where(*_is(of, served)).order_by(of.created_at.desc()).limit(1)
        async with self._database.reading() as connection:
            row = (await connection.execute(wanted)).first()
        return report_of(row[0]) if row else None

    async def _pages(
        self, feature: str, start: float | None, *, newest: bool
    ) -> AsyncIterator[Sequence[Row[Any]]]:
        """All inferences of a feature after a time, in either order, with whom each was meant for."""
        own, tried = inference.c, attempt.c
        looked_at = (own.id, own.created_at, own.arm, own.status, tried.variant, tried.version)
        joined = inference.outerjoin(attempt, and_(tried.inference_id == own.id, tried.number == 1))
        order = [own.created_at.desc(), own.id.desc()] if newest else [own.created_at, own.id]
        wanted = select(*looked_at).select_from(joined).where(own.feature == feature)
        if start is not None:
            wanted = wanted.where(own.created_at > start)
        wanted = wanted.order_by(*order).limit(PAGE)
        beyond = None
        while True:
            statement = wanted if beyond is None else wanted.where(beyond)
            async with self._database.reading() as connection:
                page = (await connection.execute(statement)).all()
            yield page
            if len(page) < PAGE:
                return
            at, last = page[-1].created_at, page[-1].id
            if newest:
                beyond = (own.created_at <= at) & ((own.created_at < at) | (own.id < last))
            else:
                beyond = (own.created_at >= at) & ((own.created_at > at) | (own.id > last))

    async def _observations(self, served: Served, found: Sequence[Row[Any]]) -> list[Observation]:
        ids = [row.id for row in found]
        made: dict[str, Observation] = {}
        for start in range(0, len(ids), PAYLOADS):
            part = ids[start : start + PAYLOADS]
            own, about = inference.c, feedback.c
            over = case((about.kind.in_([kind.value for kind in OVERRIDES]), 1), else_=0)
            said = select(about.inference_id, func.max(over)).where(
                about.inference_id.in_(part), about.kind != Kind.SHOWN.value
            )
            async with self._database.reading() as connection:
                judged = await connection.execute(said.group_by(about.inference_id))
                verdicts = {row[0]: bool(row[1]) for row in judged}
                rows = await connection.execute(select(inference).where(own.id.in_(part)))
                made |= {row.id: _observation(row, served, verdicts.get(row.id)) for row in rows}
        # A row that was forgotten in between is left out.
        return [made[one] for one in ids if one in made]


def _is(of: Any, served: Served) -> list[Any]:
    return [
        of.feature == served.feature,
        of.variant == served.variant,
        of.version == served.version,
    ]


def _of_version(page: Sequence[Row[Any]], served: Served) -> list[Row[Any]]:
    """Those of the treatment arm whose first attempt was the version's, whoever answered in the end."""
    return [
        row
        for row in page
        if row.arm == Arm.TREATMENT.value
        and row.status != "left"
        and (row.variant, row.version) == (served.variant, served.version)
    ]


def _observation(row: Row[Any], served: Served, overridden: bool | None) -> Observation:
    own = row.status == "done" and not row.degraded and row.variant == served.variant
    reason = None if own else row.fallback_reason or ("handed_on" if row.status == "done" else row.status)
    return Observation(
        id=row.id,
        at=row.created_at,
        subject_id=row.subject_id,
        input=row.input,
        output=row.output if own else None,
        confidence=row.confidence if own else None,
        fell_back=not own,
        reason=reason,
        overridden=overridden,
    )
