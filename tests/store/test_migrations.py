import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

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
