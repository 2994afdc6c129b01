import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from trivium.errors import ConfigurationError, Unavailable
from trivium.store.engine import CONNECT_S, MAX_BOUND_VALUES, Database, in_batches, insert_ignoring
from trivium.store.inferences import InferenceRepository
from trivium.store.tables import archive_item

OpenDatabase = Callable[[str], Database]

AWAY_WITHIN_S = 4.5


async def _fails_as_away(database: Database) -> float:
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await InferenceRepository(database).find("any")
    await database.close()
    assert caught.value.retry_after_s
    return time.monotonic() - started


def _row(key: str) -> dict[str, object]:
    return {"archive": "a", "entity_key": key, "record": {}, "input_hash": "0", "imported_at": 1.0}


async def _count(database: Database) -> int:
    async with database.transaction() as connection:
        return int((await connection.execute(select(func.count()).select_from(archive_item))).scalar_one())


async def test_a_closed_port_is_unavailable_soon(open_database: OpenDatabase) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = bound.getsockname()[1]
        database = open_database(f"postgresql+asyncpg://u:secret@127.0.0.1:{port}/db")
        assert await _fails_as_away(database) < AWAY_WITHIN_S


async def test_a_socket_that_does_not_exist_is_unavailable_soon(
    tmp_path: Path, open_database: OpenDatabase
) -> None:
    database = open_database(f"postgresql+asyncpg://u:secret@/db?host={tmp_path / 'none'}")
    assert await _fails_as_away(database) < AWAY_WITHIN_S


async def test_a_server_that_accepts_and_says_nothing_is_unavailable_soon(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CONNECT_S < AWAY_WITHIN_S
    monkeypatch.setattr("trivium.store.engine.CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        database = open_database(f"postgresql+asyncpg://u:secret@127.0.0.1:{port}/db")
        assert await _fails_as_away(database) < 1.5


async def test_a_sqlite_file_that_cannot_be_opened_is_unavailable(
    tmp_path: Path, open_database: OpenDatabase
) -> None:
    assert await _fails_as_away(open_database(f"sqlite+aiosqlite:///{tmp_path}")) < AWAY_WITHIN_S


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_connection_cut_in_a_transaction_is_unavailable_and_the_next_one_works(
    database: Database, open_database: OpenDatabase
) -> None:
    other = open_database(str(database.url))

    async def cut_in_the_middle() -> None:
        async with database.transaction() as connection:
            pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            async with other.transaction() as killer:
                await killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await asyncio.sleep(0.1)
            await connection.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await cut_in_the_middle()
    async with database.transaction() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_server_with_no_connection_to_spare_is_unavailable(
    database: Database, open_database: OpenDatabase
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0"))
    await _fails_as_away(open_database(str(database.url.set(username="crowded"))))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_statement_that_waited_too_long_for_a_lock_is_unavailable(database: Database) -> None:
    async def wait_for_the_lock() -> None:
        async with database.transaction() as waiting:
            await waiting.execute(text("SET LOCAL lock_timeout = '20ms'"))
            await waiting.execute(text("LOCK TABLE archive_item"))

    async with database.transaction() as connection:
        await connection.execute(text("LOCK TABLE archive_item"))
        with pytest.raises(Unavailable):
            await wait_for_the_lock()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_pooled_connections_that_the_server_cut_are_replaced_unseen(
    database: Database, open_database: OpenDatabase
) -> None:
    other = open_database(str(database.url))
    async with database.transaction() as connection:
        pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with other.transaction() as killer:
        await killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    await asyncio.sleep(0.1)
    async with database.transaction() as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_value_that_does_not_fit_its_column_is_the_statements_fault(database: Database) -> None:

    async def send_too_much() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("SELECT CAST(:n AS INTEGER)"), {"n": 2**40})

    with pytest.raises(Exception, match="int32") as caught:
        await send_too_much()
    assert not isinstance(caught.value, Unavailable)


async def test_a_wrong_statement_is_not_taken_for_a_database_that_is_away(database: Database) -> None:
    async def send_nonsense() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(Exception, match="nowhere") as caught:
        await send_nonsense()
    assert not isinstance(caught.value, Unavailable)


async def test_an_exception_rolls_the_transaction_back(database: Database) -> None:
    async def insert_and_fail() -> None:
        async with database.transaction() as connection:
            await insert_ignoring(connection, database.insert(archive_item), [_row("1")])
            raise LookupError

    with pytest.raises(LookupError):
        await insert_and_fail()
    assert await _count(database) == 0


async def test_more_rows_than_one_statement_may_bind_are_stored_and_repeats_ignored(
    database: Database,
) -> None:
    rows = [_row(f"{n:06d}") for n in range(MAX_BOUND_VALUES // 5 + 10)]
    for _ in range(2):
        async with database.transaction() as connection:
            await insert_ignoring(connection, database.insert(archive_item), rows)
    assert await _count(database) == len(rows)


def test_batches_hold_every_row_once_in_order() -> None:
    rows = [dict.fromkeys("abc", n) for n in range(30_000)]
    batches = in_batches(rows)
    assert [row for batch in batches for row in batch] == rows
    assert max(len(batch) for batch in batches) * 3 <= MAX_BOUND_VALUES
    assert in_batches([]) == []


@pytest.mark.parametrize(
    "url",
    [
        "mysql+aiomysql://user:hunter2@host/db",
        "postgresql://user:hunter2@host/db",
        "postgresql+psycopg://user:hunter2@host/db",
        "user:hunter2 at host",
        "",
        pytest.param("postgresql+asyncpg://user:x@y:hunter2@host/db", id="password-not-quoted"),
        pytest.param("postgresql+asyncpg://user:hunter2@host:port/db", id="port-no-number"),
    ],
)
def test_an_unsupported_url_is_a_configuration_error_that_keeps_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="TRIVIUM_DATABASE_URL") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


async def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path, open_database: OpenDatabase) -> None:
    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'new' / 'deep' / 'trivium.db'}")
    async with database.transaction() as connection:
        found: list[object] = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    await database.close()
    assert found == ["wal", 2, 1]
