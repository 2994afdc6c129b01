import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import inspect, text

from support.ledger import ARCHIVE, Ledger, dead_of
from support.postgres import Postgres
from trivium.store.engine import Database, alembic_config, migrate
from trivium.store.keys import KeyRepository
from trivium.store.results import Refresh, ResultRepository
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


async def test_inferences_outputs_and_vectors_keep_every_value_through_both_migrations(
    empty: Database,
) -> None:
    await _move(empty, command.upgrade, "0001")
    output = {"label": "naïve 🙂", "deep": [None, 1.5, {"a": "\\\"'"}]}
    raw = bytes(range(256))
    inference = {
        "id": "i-1",
        "feature": "f",
        "arm": "treatment",
        "subject_id": "u",
        "key_id": "k",
        "entity_key": None,
        "input": json.dumps({"text": "x"}),
        "output": json.dumps(output),
        "step": "s",
        "pattern": "edge",
        "variant": "v1",
        "version": "abc",
        "model": None,
        "degraded": False,
        "fallback_reason": None,
        "confidence": 0.75,
        "stale": True,
        "stale_reason": "age",
        "age_s": 7.5,
        "usage": json.dumps({"input_tokens": 3}),
        "cost_usd": None,
        "latency_ms": 1.5,
        "deadline_ms": 100,
        "created_at": 1234567890.123456,
    }
    result = {
        "feature": "f",
        "entity_key": "ä 🙂",
        "output": json.dumps(output),
        "input_hash": "h",
        "variant": "v1",
        "variant_version": "abc",
        "computed_at": 1234567890.654321,
        "run_id": "r-1",
    }
    run = {
        "id": "r-1",
        "feature": "f",
        "variant": "v1",
        "variant_version": "abc",
        "state": "running",
        "phase": "compare",
        "entities": 2,
        "error": None,
        "created_at": 1.5,
        "finished_at": None,
    }
    chunk = {
        "id": "c-1",
        "run_id": "r-1",
        "phase": "compare",
        "first_key": "a",
        "last_key": "b",
        "size": 2,
        "state": "leased",
        "token": 1,
        "lease_until": 2.5,
        "failures": 0,
        "error": None,
    }
    vector = {"archive": "t", "entity_key": "a", "model": "m", "input_hash": "h", "vector": raw}
    given: dict[str, dict[str, Any]] = {
        "inference": inference,
        "precomputed_result": result,
        "precompute_run": run,
        "precompute_chunk": chunk,
        "archive_embedding": vector,
    }
    async with empty.transaction() as connection:
        for table, row in given.items():
            values = ", ".join(_value(empty, name) for name in row)
            await connection.execute(text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"), row)

    async def kept(table: str) -> dict[str, Any]:
        async with empty.transaction() as connection:
            (found,) = (await connection.execute(text(f"SELECT * FROM {table}"))).mappings()
        return {
            name: json.loads(found[name]) if name in _JSON and isinstance(found[name], str) else found[name]
            for name in given[table]
        }

    before = {table: await kept(table) for table in given}
    for move, to in ((command.upgrade, "0002"), (command.downgrade, "0001"), (command.upgrade, "head")):
        await _move(empty, move, to)
        for table in ("inference", "precomputed_result", "archive_embedding"):
            assert await kept(table) == before[table], (table, to)
        assert await _rows(empty, "SELECT id FROM precompute_chunk") == [], (
            "runs under way are not taken over"
        )
    assert before["inference"]["output"] == before["precomputed_result"]["output"] == output
    assert before["archive_embedding"]["vector"] == raw
    assert await _rows(empty, "SELECT status FROM inference") == [("done",)]
    assert await _rows(empty, "SELECT state, created_at FROM precompute_run") == [("failed", 1.5)]
    none = "SELECT confidence, model, cost_usd FROM precomputed_result"
    assert await _rows(empty, none) == [(None, None, None)]


async def test_runs_of_every_state_and_what_is_new_survive_a_downgrade_as_far_as_it_knows_them(
    empty: Database,
) -> None:
    await migrate(empty)
    ledger = Ledger(empty)
    done = await ledger.start(2, 1)
    first, second = await ledger.claim_all()
    await ledger.finish(first)
    await ledger.finish(second, dead_of(second.keys))
    running = await ledger.start(2, 1)
    await ledger.claim()
    queued = await ledger.start(1, 1, overlap="queue")
    await ResultRepository(empty).ask([Refresh("triage", "stored", "K-00000", "age")])
    await _move(empty, command.downgrade, "0001")
    found = await _rows(empty, "SELECT id, state, entities, phase FROM precompute_run ORDER BY id")
    assert found == [
        (done, "failed", 2, "compare"),
        (running, "failed", 0, "compare"),
        (queued, "failed", 0, "compare"),
    ]
    assert await _rows(empty, "SELECT entity_key, variant FROM precomputed_result") == [("K-00000", "stored")]
    await _move(empty, command.upgrade, "head")
    assert {row[0] for row in await _rows(empty, "SELECT state FROM precompute_run")} == {"failed"}
    (one,) = await ResultRepository(empty).find("triage", "stored", ARCHIVE, ["K-00000"])
    assert (one.output, one.input_hash == one.current_input_hash) == ({"label": "x"}, True)
    assert not (await ledger.progress(await ledger.start(1, 1))).ended, "the ledger works on"


_JSON = ("input", "output", "usage")


def _value(database: Database, name: str) -> str:
    return f"CAST(:{name} AS JSONB)" if name in _JSON and not database.is_sqlite else f":{name}"
