"""Forgetting in small windows: each a short transaction of its own, in which nothing is read but ids."""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    Update,
    and_,
    delete,
    func,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database

WINDOW = 1_000
"""Rows of an index that one transaction looks at."""
Place = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Dependent:
    """Rows of another table that name a row, and go with it; with `values` they stay, and lose these."""

    column: Column[Any]
    values: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """A class of rows that may go.

    Args:
        name: of it, for metrics: the table's, or what of the table.
        why: it may go, for people.
        table: that it is in.
        along: columns of one index, with the primary key at the end where that is not among them; the rows
            are looked through in their order.
        within: bounds on those columns.
        goes: what else must hold of a row.
        dependents: what goes first.
        values: what takes the place of the row's own, if it is only stripped.
        spared: ids that stay nevertheless.
        seen: the place that is reached in the end, where what was passed over once need not be looked at
            again for a while.
        most: rows of a window.
    """

    name: str
    why: str
    table: Table
    along: tuple[Column[Any], ...]
    within: ColumnElement[bool] = field(default_factory=true)
    goes: ColumnElement[bool] = field(default_factory=true)
    dependents: tuple[Dependent, ...] = ()
    values: dict[str, Any] | None = None
    spared: frozenset[str] = frozenset()
    seen: Place | None = None
    most: int = WINDOW


@dataclass(frozen=True, slots=True)
class Step:
    """What one window gave: rows by name, and where it ended; None at the end of all."""

    counts: Counter[str]
    end: Place | None


class Sweeper:
    """Carries sweeps out; a row that somebody else holds is passed over until the next time."""

    def __init__(self, database: Database, most: int | None = None) -> None:
        self._database = database
        self._most = most

    async def steps(
        self, sweep: Sweep, after: Place | None = None, *, dry: bool = False
    ) -> AsyncGenerator[Step, None]:
        """Goes through all windows from a place on; `dry` only counts.

        Raises:
            Unavailable: the database is away; the windows until then are done.
        """
        while True:
            made = await (self._count(sweep, after) if dry else self._forget(sweep, after))
            yield made
            if made.end is None:
                return
            after = made.end

    async def all(self, sweep: Sweep, *, dry: bool = False) -> Counter[str]:
        """Goes through all windows; returns how many rows went (`dry`: would go), by name."""
        total: Counter[str] = Counter()
        async for step in self.steps(sweep, dry=dry):
            total += step.counts
        return total

    async def _forget(self, sweep: Sweep, after: Place | None) -> Step:
        counts: Counter[str] = Counter()
        async with self._database.transaction() as connection:
            if self._database.is_sqlite:
                # From the start, lest what was read has changed when it is deleted.
                await self._database.serialise(connection, "retention")
            ids, end = await self._chosen(connection, sweep, after, lock=True)
            if ids:
                for dependent in sweep.dependents:
                    own = dependent.column.table
                    gone = await connection.execute(
                        _change(own, dependent.values, dependent.column.in_([one[0] for one in ids]))
                    )
                    if dependent.values is None:
                        counts[str(own.name)] += gone.rowcount
                key = list(sweep.table.primary_key)
                those = tuple_(*key).in_(ids) if len(key) > 1 else key[0].in_([one[0] for one in ids])
                gone = await connection.execute(_change(sweep.table, sweep.values, those))
                counts[sweep.name] += gone.rowcount
        return Step(counts, end)

    async def _count(self, sweep: Sweep, after: Place | None) -> Step:
        counts: Counter[str] = Counter()
        async with self._database.reading() as connection:
            ids, end = await self._chosen(connection, sweep, after, lock=False)
            counts[sweep.name] += len(ids)
            for dependent in sweep.dependents:
                if ids and dependent.values is None:
                    of = dependent.column.in_([one[0] for one in ids])
                    some = select(func.count()).select_from(dependent.column.table).where(of)
                    found = await connection.execute(some)
                    counts[str(dependent.column.table.name)] += int(found.scalar_one())
        return Step(counts, end)

    async def _chosen(
        self, connection: AsyncConnection, sweep: Sweep, after: Place | None, *, lock: bool
    ) -> tuple[list[Place], Place | None]:
        """The primary keys of what may go in the next window, and its end."""
        window, end = await self._window(connection, sweep, after)
        chosen = select(*sweep.table.primary_key).where(window, sweep.goes)
        if lock:
            chosen = chosen.with_for_update(skip_locked=True, of=sweep.table)
        ids = [tuple(row) for row in await connection.execute(chosen)]
        return [one for one in ids if one[0] not in sweep.spared], end

    async def _window(
        self, connection: AsyncConnection, sweep: Sweep, after: Place | None
    ) -> tuple[ColumnElement[bool], Place | None]:
        """The condition of the next window, and its last place; None if it reaches to the end."""
        begun = and_(sweep.within, _beyond(sweep.along, after))
        last: Select[Any] = select(*sweep.along).where(begun).order_by(*sweep.along)
        most = self._most or sweep.most
        row = (await connection.execute(last.offset(most - 1).limit(1))).first()
        if row is None:
            return begun, None
        return and_(begun, _up_to(sweep.along, tuple(row))), tuple(row)


async def distinct(database: Database, *columns: Column[Any]) -> list[Place]:
    """The different values of the first columns of an index, one look at the index for each."""
    column, found = columns[-1], list[Place]()
    for before in await distinct(database, *columns[:-1]) if len(columns) > 1 else [()]:
        same = [of == value for of, value in zip(columns, before, strict=False)]
        last = None
        while True:
            beyond = true() if last is None else column > last
            async with database.reading() as connection:
                last = (await connection.execute(select(func.min(column)).where(*same, beyond))).scalar()
            if last is None:
                break
            found.append((*before, last))
    return found


def _change(table: Any, values: dict[str, Any] | None, which: ColumnElement[bool]) -> Any:
    if values is None:
        return delete(table).where(which)
    change: Update = update(table).where(which).values(values)
    return change


def _beyond(along: tuple[Column[Any], ...], place: Place | None) -> ColumnElement[bool]:
    if place is None:
        return true()
    # The first column by itself, for an index that has only the first ones.
    return and_(along[0] >= place[0], tuple_(*along) > place) if len(along) > 1 else along[0] > place[0]


def _up_to(along: tuple[Column[Any], ...], place: Place) -> ColumnElement[bool]:
    return and_(along[0] <= place[0], tuple_(*along) <= place) if len(along) > 1 else along[0] <= place[0]
