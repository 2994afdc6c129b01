"""Many rows at once: COPY and merge on PostgreSQL, `executemany` on SQLite."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database

Values = Sequence[Any]


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
        values = f"VALUES ({', '.join('?' * len(columns))})"
        cursor = await raw.executemany(_merge(table, columns, values, only_if, replace), ordered)
        await cursor.close()
        return
    incoming = f"incoming_{table.name}"
    await raw.execute(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {incoming} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    await raw.copy_records_to_table(incoming, records=ordered, columns=columns)
    chosen = f"SELECT {', '.join(columns)} FROM {incoming}"  # noqa: S608 - names of our own
    await raw.execute(_merge(table, columns, chosen, only_if, replace))


@cache
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
