"""Rows for every table, made from the tables themselves: a new table needs no new line here."""

import zlib
from typing import Any

from sqlalchemy import JSON, Boolean, Double, Integer, LargeBinary, MetaData, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from trivium.store.engine import Database

CHOICES = {
    "audit_event.outcome": "done",
    "decision.action": "advance",
    "precompute_chunk.state": "done",
    "precompute_run.state": "done",
    "precompute_run.trigger": "schedule",
    "review.verdict": "accept",
}
"""Values of columns with a check constraint, or on which something hangs."""
PAYLOAD = {"label": "naïve 🙂", "deep": [None, 1.5, {"a": "\\\"'"}]}


async def schema_of(database: Database) -> MetaData:
    """The tables as the database has them."""
    found = MetaData()
    async with database.engine.connect() as connection:
        await connection.run_sync(found.reflect)
    found.remove(found.tables["alembic_version"])
    return found


def row_of(table: Table, at: float, **given: Any) -> dict[str, Any]:
    """A row with a value in every column."""
    return {column.name: given.get(column.name, _value(table, column, at)) for column in table.columns}


async def fill(connection: AsyncConnection, schema: MetaData, at: float) -> dict[str, dict[str, Any]]:
    """Puts a row of a moment into every table; returns them by table."""
    rows = {table.name: row_of(table, at) for table in schema.sorted_tables}
    for table in schema.sorted_tables:
        await connection.execute(table.insert().values(rows[table.name]))
    return rows


async def rows_in(database: Database, table: Table) -> list[dict[str, Any]]:
    """What a table holds, in order of its key."""
    async with database.transaction() as connection:
        found = await connection.execute(table.select().order_by(*table.primary_key))
        return [dict(row) for row in found.mappings()]


async def counts(database: Database, schema: MetaData) -> dict[str, int]:
    """Rows by table."""
    async with database.transaction() as connection:
        return {
            name: int((await connection.execute(text(f'SELECT count(*) FROM "{name}"'))).scalar_one())
            for name in sorted(schema.tables)
        }


def _value(table: Table, column: Any, at: float) -> Any:
    name, kind = column.name, column.type
    if chosen := CHOICES.get(f"{table.name}.{name}"):
        return chosen
    if name in ("run_id", "evaluation_id") or (name, table.name) == ("id", "precompute_run"):
        return _id("evaluation" if name == "evaluation_id" else "precompute_run")
    if name == "id":
        return _id(table.name)
    if isinstance(kind, JSON):
        return PAYLOAD
    if isinstance(kind, Boolean):
        return False
    if isinstance(kind, Integer):
        return 1
    if isinstance(kind, Double) or kind.__visit_name__ in ("double", "double_precision", "FLOAT"):
        return at
    if isinstance(kind, LargeBinary):
        return bytes(range(256))
    return f"{table.name} {name}"[: getattr(kind, "length", None) or 128]


def _id(table: str) -> str:
    """In order before those of today."""
    return f"01000000-0000-7000-8000-{zlib.crc32(table.encode()):012x}"
