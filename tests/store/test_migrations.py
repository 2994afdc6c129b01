import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from support.postgres import Postgres
from trivium.store.engine import Database, alembic_config, migrate
from trivium.store.keys import KeyRepository
from trivium.store.tables import metadata

OpenDatabase = Callable[[str], Database]
MIGRATE = """
import asyncio, sys
from trivium.store.engine import Database, migrate

asyncio.run(migrate(Database(sys.argv[1])))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without a table."""
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.new_database()
    made = Database(url)
    yield made
    await made.close()


async def _tables(database: Database) -> set[str]:
    async with database.engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_an_upgrade_from_nothing_makes_every_table_and_a_second_changes_nothing(
    empty: Database,
) -> None:
    assert await _tables(empty) == set()
    await migrate(empty)
    assert await _tables(empty) == {*metadata.tables, "alembic_version"}
    key, _ = await KeyRepository(empty).create("app", ["infer"])
    await migrate(empty)
    assert [row["id"] for row in await KeyRepository(empty).list()] == [key.id]


async def test_the_tables_in_the_code_are_those_in_the_database(empty: Database) -> None:
    await migrate(empty)
    await asyncio.to_thread(command.check, alembic_config(empty.url))


async def test_a_downgrade_to_nothing_and_an_upgrade_work(empty: Database) -> None:
    await migrate(empty)
    await empty.close()
    await asyncio.to_thread(command.downgrade, alembic_config(empty.url), "base")
    assert await _tables(empty) == {"alembic_version"}
    await empty.close()
    await migrate(empty)
    await asyncio.to_thread(command.check, alembic_config(empty.url))
    assert await KeyRepository(empty).list() == []


async def test_gateways_that_start_at_once_migrate_one_after_the_other(
    postgres: Postgres, open_database: OpenDatabase
) -> None:
    url = postgres.new_database()
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, url], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [
        (await asyncio.to_thread(process.communicate))[1] if process.returncode is None else ""
        for process in processes
    ]
    assert [process.returncode for process in processes] == [0, 0], ended
    database = open_database(url)
    assert await _tables(database) == {*metadata.tables, "alembic_version"}


async def _rows(database: Database, sql: str) -> list[tuple[object, ...]]:
    async with database.transaction() as connection:
        return [tuple(row) for row in await connection.execute(text(sql))]


async def _move(database: Database, move: Callable[..., None], to: str) -> None:
    await database.close()
    await asyncio.to_thread(move, alembic_config(database.url), to)


async def test_what_is_stored_survives_the_second_migration_forth_and_back(
    empty: Database,
) -> None:
    await _move(empty, command.upgrade, "0001")
    run = "INSERT INTO precompute_run VALUES ('{0}', 'f', 'v1', 'abc', '{1}', 'compare', 7, NULL, 1.5, {2})"
    async with empty.transaction() as connection:
        for given in (("r-done", "done", 2.5), ("r-running", "running", "NULL"), ("r-failed", "failed", 3.5)):
            await connection.execute(text(run.format(*given)))
        for key in ("a", "b"):
            await connection.execute(
                text(
                    "INSERT INTO precomputed_result (feature, entity_key, output, input_hash, variant, "
                    "variant_version, computed_at, run_id) "
                    "VALUES ('f', :key, '{}', 'h', 'v1', 'abc', 9.5, 'r')"
                ),
                {"key": key},
            )
        vector = "x'01'" if empty.is_sqlite else "decode('01', 'hex')"
        await connection.execute(text(f"INSERT INTO archive_embedding VALUES ('t', 'a', 'm', 'h', {vector})"))
    await _move(empty, command.upgrade, "0002")
    found = await _rows(empty, "SELECT id, state, total, computed, error FROM precompute_run ORDER BY id")
    assert found == [
        ("r-done", "done", 7, 7, None),
        ("r-failed", "failed", 7, 0, None),
        ("r-running", "failed", 7, 0, "interrupted by an upgrade; start it again"),
    ]
    assert await _rows(empty, "SELECT variant, entity_key FROM precomputed_result ORDER BY entity_key") == [
        ("v1", "a"),
        ("v1", "b"),
    ]
    assert await _rows(empty, "SELECT entity_key, run_id FROM archive_embedding") == [("a", None)]
    async with empty.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO precomputed_result (feature, variant, entity_key, output, input_hash, "
                "variant_version, computed_at, run_id) VALUES ('f', 'v2', 'a', '{}', 'h', 'def', 10.5, 'r')"
            )
        )
    await _move(empty, command.downgrade, "0001")
    assert await _rows(empty, "SELECT entity_key, variant FROM precomputed_result ORDER BY entity_key") == [
        ("a", "v2"),
        ("b", "v1"),
    ]
    assert len(await _rows(empty, "SELECT id FROM precompute_run")) == 3
    await _move(empty, command.upgrade, "head")
    await asyncio.to_thread(command.check, alembic_config(empty.url))
