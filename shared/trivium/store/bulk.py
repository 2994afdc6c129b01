"""Many rows at once: COPY and merge on PostgreSQL, many rows a statement on SQLite."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database

Values = Sequence[Any]
SIZES = (256, 32, 4, 1)
SQLITE_VARIABLES = 8_000
"""Of a statement; SQLite takes 32,766 of them, and 999 before 3.32 of 2020."""


async def upsert(
    database: Database,
    connection: AsyncConnection,
    table: Table,
    columns: tuple[str, ...],
    rows: Iterable[Values],
    *,
    only_if: str | None = None,
    replace: bool = True,
) -> None:
    """Inserts rows; replaces those of the same primary key, or with `replace=False` leaves them.

    Once a table and transaction, and not as its first statement: it goes past SQLAlchemy, which begins
    a transaction at the first of its own.

    Args:
        database: that the connection is to.
        connection: within a transaction.
        table: whose primary key tells which rows are the same.
        columns: what each row has; JSON columns as text.
        rows: in the order of `columns`; no two may have one key.
        only_if: SQL of `new` and the table's name; where it is false the old row stays.
        replace: whether a row of the same key is replaced at all.
    """
    # In the order of their keys, so that two transactions never wait for each other.
    keys = [columns.index(c.name) for c in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(row[k] for k in keys))
    if not ordered:
        return
    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    if database.is_sqlite:
        # Many rows a statement: SQLite lets go of the interpreter for each, and must wait to have it back.
        for portion in _portions(ordered, len(columns)):
            values = f"VALUES {', '.join([_places(len(columns))] * len(portion))}"
            statement = _merge(table, columns, values, only_if, replace)
            cursor = await raw.execute(statement, list(chain.from_iterable(portion)))
            await cursor.close()
        return
    incoming = f"incoming_{table.name}"
    await raw.execute(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {incoming} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    await raw.copy_records_to_table(incoming, records=ordered, columns=columns)
    chosen = f"SELECT {', '.join(columns)} FROM {incoming}"  # noqa: S608 - names of our own
    await raw.execute(_merge(table, columns, chosen, only_if, replace))


def _portions(rows: list[Values], columns: int) -> Iterator[list[Values]]:
    """The rows in a few sizes only: each is a prepared statement that the connection keeps."""
    start = 0
    for size in SIZES:
        while len(rows) - start >= size and size * columns <= SQLITE_VARIABLES:
            yield rows[start : start + size]
            start += size


@cache
def _places(count: int) -> str:
    return f"({', '.join('?' * count)})"


@lru_cache(maxsize=64)
def _merge(table: Table, columns: tuple[str, ...], source: str, only_if: str | None, replace: bool) -> str:
    key = [c.name for c in table.primary_key]
    if not replace:
        return f"INSERT INTO {table.name} ({', '.join(columns)}) {source} ON CONFLICT DO NOTHING"
    changes = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in key)
    when = f" WHERE {only_if.replace('new.', 'excluded.')}" if only_if else ""
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) {source} "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}{when}"
    )
