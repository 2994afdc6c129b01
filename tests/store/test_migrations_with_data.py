"""Migrations on databases that hold something, and ones that are cut short."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from sqlalchemy import text

from support.filled import fill, row_of, rows_in, schema_of
from support.platform import clean_environment
from support.postgres import Postgres
from trivium.errors import ConfigurationError, Unavailable
from trivium.store.engine import Database, alembic_config, migrate
from trivium.store.keys import KeyRepository
from trivium.store.schema import check_schema, move, revisions
from trivium.store.schema import schema_of as state_of

OpenDatabase = Callable[[str], Database]
Content = dict[str, list[dict[str, Any]]]
# Runs under way are not taken over by 0002 and back: their chunks go, and a run is as if it had ended.
ALL = "every column"
LOST: dict[tuple[str, str], dict[str, Any]] = {
    ("0001", "0002"): {"precompute_chunk": ALL, "precompute_run": {"phase"}},
    ("0002", "0001"): {"precompute_chunk": ALL, "precompute_run": {"phase"}},
}
CUT = """
import asyncio, os, signal, sys
from alembic import op
from trivium.store.engine import Database, migrate

made = op.create_table

def cut(name, *args, **options):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(name, *args, **options)

op.create_table = cut
asyncio.run(migrate(Database(sys.argv[1])))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without a table."""
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    else:
        url = request.getfixturevalue("postgres").new_database()
    made = Database(url)
    yield made
    await made.close()


def _url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


async def _go(database: Database, to: str) -> None:
    at = (await state_of(database)).revision
    up = at is None or at <= to != "base"
    await database.close()
    await move(database, to, up=up)


async def _content(database: Database) -> Content:
    return {table.name: await rows_in(database, table) for table in (await schema_of(database)).sorted_tables}


def _same(before: Content, after: Content, lost: dict[str, Any]) -> None:
    for table in before.keys() & after.keys():
        gone = lost.get(table, set())
        if gone == ALL:
            continue
        assert len(after[table]) == len(before[table]), table
        for old, new in zip(before[table], after[table], strict=True):
            for column in (old.keys() & new.keys()) - gone:
                assert new[column] == old[column], (table, column)


async def test_every_row_of_every_table_comes_through_every_revision_and_back(empty: Database) -> None:
    names = [name for name, _ in revisions()]
    before: Content = {}
    for earlier, name in zip(["", *names], names, strict=False):
        await _go(empty, name)
        after = await _content(empty)
        _same(before, after, LOST.get((earlier, name), {}))
        schema = await schema_of(empty)
        async with empty.transaction() as connection:
            for table in schema.sorted_tables:
                if not after[table.name]:
                    await connection.execute(table.insert().values(row_of(table, 1234567890.123456)))
        before = await _content(empty)
        assert all(before.values()), "a table without a row proves nothing"
    for later, name in zip(names[::-1], [*names[-2::-1], "base"], strict=True):
        await _go(empty, name)
        after = await _content(empty)
        _same(before, after, LOST.get((later, name), {}))
        before = after
    assert before == {}
    await migrate(empty)
    await asyncio.to_thread(command.check, alembic_config(empty.url))


@pytest.mark.parametrize(
    ("at", "table", "stands"), [("0001", "dead_item", "0001"), ("0002", "audit_event", "0004")]
)
async def test_a_migration_that_is_killed_half_way_leaves_a_whole_revision_and_goes_on(
    empty: Database, at: str, table: str, stands: str
) -> None:
    await _go(empty, at)
    async with empty.transaction() as connection:
        await fill(connection, await schema_of(empty), 5.5)
    before = await _content(empty)
    await empty.close()
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CUT, _url(empty), table], env=clean_environment(), check=False
    )
    assert killed.returncode == -9
    assert (await state_of(empty)).revision == stands
    columns = {table.name: set(table.c.keys()) for table in (await schema_of(empty)).sorted_tables}
    assert table not in columns
    if stands == "0004":
        assert "features" not in columns["api_key"], "what of the revision was done is undone"
    _same(before, await _content(empty), {})
    await migrate(empty)
    await asyncio.to_thread(command.check, alembic_config(empty.url))
    _same(before, await _content(empty), LOST["0001", "0002"] if at == "0001" else {})


async def test_an_index_that_a_killed_migration_left_invalid_is_made_anew(postgres: Postgres) -> None:
    database = Database(postgres.new_database())
    await _go(database, "0005")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_feedback_received_at'::regclass"
    async with database.transaction() as connection:
        await connection.execute(
            text("INSERT INTO feedback SELECT 'f', 'i', 'k', 'x', 'shown', NULL, 1, 1, NULL")
        )
    blocker = await asyncpg.connect(_url(database).replace("+asyncpg", ""))
    try:
        holding = blocker.transaction()
        await holding.start()
        await blocker.execute("UPDATE feedback SET kind = 'accepted'")  # which the index has to wait for
        process = subprocess.Popen([sys.executable, "-c", CUT, _url(database), ""], env=clean_environment())
        async with database.engine.connect() as connection:
            exists = text("SELECT to_regclass('ix_feedback_received_at') IS NOT NULL")
            while not bool(await connection.scalar(exists)):
                assert process.poll() is None
                await connection.rollback()
                await asyncio.sleep(0.02)
            assert not bool(await connection.scalar(text(valid)))
        process.kill()
        process.wait()
        assert (await state_of(database)).revision == "0005"
        await holding.rollback()
    finally:
        await blocker.close()
    # Nobody tells the server that its client is gone, so the retry may have to wait for it.
    await migrate(database)
    async with database.transaction() as connection:
        assert bool(await connection.scalar(text(valid)))
    assert (await state_of(database)).revision == "0006"
    await database.close()


async def test_a_lock_that_is_not_to_be_had_is_told_and_the_next_try_goes_through(postgres: Postgres) -> None:
    database = Database(postgres.new_database())
    await _go(database, "0004")
    reader = await asyncpg.connect(_url(database).replace("+asyncpg", ""))
    try:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT count(*) FROM refresh_request")  # as a report that takes its time
        environment = clean_environment() | {"TRIVIUM_DATABASE_URL": _url(database)}
        upgrade = [sys.executable, "-m", "trivium.cli.main", "db", "upgrade"]
        failed = await asyncio.to_thread(
            subprocess.run, upgrade, env=environment, capture_output=True, text=True, check=False
        )
        assert failed.returncode == 1
        assert "another session holds a table" in failed.stderr.replace("\n", " "), failed.stderr
        assert "Traceback" not in failed.stderr
        assert (await state_of(database)).revision == "0004"
        await reading.rollback()
    finally:
        await reader.close()
    await migrate(database)
    assert (await state_of(database)).fault is None
    await database.close()


async def test_a_sqlite_that_somebody_writes_to_is_told_too(
    tmp_path: Path, open_database: OpenDatabase
) -> None:
    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    await _go(database, "0004")
    async with database.transaction() as connection:
        await database.serialise(connection, "test")
        with pytest.raises(Unavailable, match="database is locked"):
            await migrate(database)
    await migrate(database)
    assert (await state_of(database)).fault is None


async def test_code_starts_on_a_newer_schema_and_says_what_an_older_one_lacks(empty: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"empty.*trivium db upgrade"):
        await check_schema(empty)
    await _go(empty, "0005")
    with pytest.raises(
        ConfigurationError, match=r"at revision 0005, this version needs 0006.*trivium db upgrade"
    ):
        await check_schema(empty)
    await migrate(empty)
    await check_schema(empty)
    async with empty.transaction() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(text("ALTER TABLE api_key ADD COLUMN of_the_future TEXT"))
    await check_schema(empty)
    await migrate(empty)
    key, _ = await KeyRepository(empty).create("app", ["infer"])
    assert [row["id"] for row in await KeyRepository(empty).list()] == [key.id]
    with pytest.raises(ConfigurationError, match="9999, which this version does not know"):
        await move(empty, "0005", up=False)


@pytest.mark.parametrize(
    ("to", "up", "told"),
    [
        ("0042", True, "no revision '0042'; there are: 0001, .*0006"),
        ("latest", False, "no revision 'latest'; there are: base, 0001"),
        ("0002", True, "at revision 0003; use `trivium db downgrade 0002`"),
        ("0005", False, "at revision 0003; use `trivium db upgrade 0005`"),
    ],
)
async def test_a_move_that_cannot_be_made_says_why(
    tmp_path: Path, open_database: OpenDatabase, to: str, up: bool, told: str
) -> None:
    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    await move(database, "0003", up=True)
    with pytest.raises(ConfigurationError, match=told):
        await move(database, to, up=up)
    assert (await state_of(database)).revision == "0003"
