"""The connection to the database: made in a lifespan, passed in, never at import."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import (
    ColumnElement,
    Double,
    Insert,
    Table,
    TextClause,
    event,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from trivium.errors import ConfigurationError, Unavailable
from trivium.store.tls import postgresql_tls

# Of what goes past SQLAlchemy, see bulk.py.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error)
CONNECT_S = 3
STATEMENT_S = 10
# Of PostgreSQL: connection exceptions, a lack of connections, memory or disk, an operator's
# intervention (a server that starts, stops or cancels), a stand-by, a deadlock, a lock timeout.
LOCK_TIMEOUT = "55P03"
AWAY_SQLSTATES = ("08", "53", "57", "25006", "40001", "40P01", LOCK_TIMEOUT)
# Rows in one INSERT: SQLite allows 32,766 bound values, PostgreSQL's protocol 32,767.
MAX_BOUND_VALUES = 32_000


class Database:
    """An engine and its one way to begin a transaction."""

    def __init__(self, url: str, pool_size: int = 5) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):
            # What went wrong quotes the URL, and with it the password.
            raise ConfigurationError(
                "TRIVIUM_DATABASE_URL is not a database URL; special characters in the password "
                "must be percent-encoded"
            ) from None
        if self.url.drivername not in ("postgresql+asyncpg", "sqlite+aiosqlite"):
            raise ConfigurationError(
                f"TRIVIUM_DATABASE_URL: {self.url.drivername} is not supported; "
                "use postgresql+asyncpg or sqlite+aiosqlite"
            )
        self.engine = self._make_engine(pool_size)
        self._reading = self._make_reading_engine(pool_size)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded default."""
        return self.url.drivername.startswith("sqlite")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back by an exception.

        Raises:
            Unavailable: the database is away.
        """
        with _telling_away():
            async with self.engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for one query, without a transaction around it: a third of the round trips.

        A connection that broke since it was last used shows as Unavailable once; the next one is new.

        Raises:
            Unavailable: the database is away.
        """
        with _telling_away():
            async with self._reading.connect() as connection:
                yield connection

    async def serialise(self, connection: AsyncConnection, name: str) -> None:
        """Lets one transaction of a name at a time go on from here. To be called first in it."""
        if self.is_sqlite:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))

    @property
    def now(self) -> ColumnElement[float]:
        """The time by the database's clock, in Unix seconds: workers' own clocks may differ."""
        sqlite, postgres = "(julianday('now') - 2440587.5) * 86400.0", "extract(epoch FROM clock_timestamp())"
        return literal_column(sqlite if self.is_sqlite else f"({postgres})::float8", Double)

    def look_up(self, columns: str, **tables: str) -> TextClause:
        """A statement that looks up each string of the JSON array `:keys`, `given.value`, in some tables.

        PostgreSQL is held to a probe of the index for each key: on a table that has grown faster than its
        statistics it would read the whole of it for every key.

        Args:
            columns: what is selected.
            **tables: by the table's name the condition that finds its row.
        """
        if self.is_sqlite:
            joins = [f"LEFT JOIN {table} ON {found}" for table, found in tables.items()]
            return text(f"SELECT {columns} FROM json_each(:keys) AS given {' '.join(joins)}")  # noqa: S608
        joins = [
            f"LEFT JOIN LATERAL (SELECT * FROM {table} WHERE {found} OFFSET 0) AS {table} ON TRUE"  # noqa: S608
            for table, found in tables.items()
        ]
        given = "json_array_elements_text(:keys) AS given"
        return text(f"SELECT {columns} FROM {given} {' '.join(joins)}")  # noqa: S608

    def insert(self, table: Table) -> Any:
        """An INSERT with `on_conflict_do_…`, in the dialect of this database."""
        return (sqlite if self.is_sqlite else postgresql).insert(table)

    async def close(self) -> None:
        """Ends all connections."""
        await self._reading.dispose()
        await self.engine.dispose()

    def _make_engine(self, pool_size: int) -> AsyncEngine:
        if self.is_sqlite:
            Path(self.url.database or "").parent.mkdir(parents=True, exist_ok=True)
            engine = create_async_engine(
                self.url, pool_size=pool_size, hide_parameters=True, connect_args={"timeout": 5}
            )
            event.listen(engine.sync_engine, "connect", _set_sqlite_pragmas)
            return engine
        return _postgresql(self.url, pool_size, pool_pre_ping=True)

    def _make_reading_engine(self, pool_size: int) -> AsyncEngine:
        if self.is_sqlite:
            return self.engine
        return _postgresql(self.url, pool_size, isolation_level="AUTOCOMMIT")


def _postgresql(url: URL, pool_size: int, **options: Any) -> AsyncEngine:
    bare, tls = postgresql_tls(url)
    return create_async_engine(
        bare,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_S,
        connect_args={"timeout": CONNECT_S, "command_timeout": STATEMENT_S, **tls},
        **options,
    )


@contextmanager
def _telling_away() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, *DRIVER_ERRORS) as error:
        if is_away(error):
            raise Unavailable("The database is away", retry_after_s=2) from error
        raise
    except (OSError, TimeoutError) as error:
        raise Unavailable("The database is away", retry_after_s=2) from error


def is_away(error: Exception) -> bool:
    """Whether the database, not the statement, is at fault; of SQLAlchemy's errors and the drivers' own."""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname != "SQLITE_ERROR"
    if isinstance(error, asyncpg.InterfaceError):
        return True
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(AWAY_SQLSTATES)
    if isinstance(error, DBAPIError):
        code = str(getattr(error.orig, "sqlstate", None) or "")
        if error.connection_invalidated or code.startswith(AWAY_SQLSTATES):
            return True
    if isinstance(error, OperationalError):
        # SQLite calls a wrong statement operational too.
        return getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    return isinstance(error, InterfaceError | PoolTimeout)


def in_batches(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows cut so that no statement has more bound values than the databases allow."""
    if not rows:
        return []
    size = MAX_BOUND_VALUES // len(rows[0])
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


async def insert_ignoring(connection: AsyncConnection, statement: Insert, rows: list[dict[str, Any]]) -> None:
    """Inserts rows; those that stand already are left as they are."""
    for batch in in_batches(rows):
        await connection.execute(statement.on_conflict_do_nothing(), batch)  # type: ignore[attr-defined]


async def migrate(database: Database) -> None:
    """Brings the schema to the newest revision. One of newer code stays: it leaves room for the code before.

    Raises:
        Unavailable: the database is away, or something holds a table that has to be changed.
    """
    try:
        await run_migrations(database, command.upgrade, "head")
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):  # of the revision that the database is at
            raise


async def run_migrations(database: Database, move: Callable[[Config, str], None], to: str) -> None:
    """Alembic's upgrade or downgrade to a revision; each in a transaction of its own.

    Raises:
        Unavailable: the database is away, or something holds a table that has to be changed.
    """
    try:
        await asyncio.to_thread(move, alembic_config(database.url), to)
    except (SQLAlchemyError, *DRIVER_ERRORS, OSError, TimeoutError) as error:
        if not isinstance(error, OSError | TimeoutError) and not is_away(error):
            raise
        cause = getattr(error, "orig", None) or error
        why = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        if getattr(cause, "sqlstate", None) == LOCK_TIMEOUT:
            why = "another session holds a table that it has to change, and did not let go of it in time"
        raise Unavailable(
            f"The schema was not brought to {to}: {why}. Run it again", retry_after_s=5
        ) from error


def alembic_config(url: Any) -> Config:
    """Alembic's configuration for a URL; the migrations lie beside or inside the package."""
    packaged = Path(__file__).parents[1] / "migrations"
    folder = packaged if packaged.is_dir() else packaged.parents[1] / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.attributes["url"] = url
    return config


def _set_sqlite_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
