"""Alembic's entry: runs on the URL that the caller put into the configuration."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from trivium.store.tables import metadata
from trivium.store.tls import postgresql_tls

LOCK_TIMEOUT_MS = 5_000
# Migrations of two gateways that start at once run one after the other.
ADVISORY_LOCK = 7_216_420_251
ASK_AGAIN_S = 0.1
CONNECT_S = 10


def run(connection: Connection) -> None:
    """Runs the migrations on a connection."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        _take_turn(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        # One that is cut short leaves the revisions before it done, and nothing of its own.
        transactional_ddl=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _take_turn(connection: Connection) -> None:
    """Waits without a statement that lasts: an index that is built concurrently would wait for that."""
    while True:
        mine = connection.execute(text(f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})")).scalar_one()
        connection.commit()
        if mine:
            return
        time.sleep(ASK_AGAIN_S)


def _begin(connection: Connection) -> None:
    """By itself SQLite's driver begins no transaction for a change of the schema."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def main() -> None:
    """Connects and runs."""
    url, tls = postgresql_tls(context.config.attributes["url"])
    engine = create_async_engine(url, connect_args={"timeout": CONNECT_S, **tls})
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "begin", _begin)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(main())
