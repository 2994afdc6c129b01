"""`trivium db`: where the schema is and goes, copies, and what may be forgotten."""

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.edge import KEY, free_port
from support.filled import counts, fill
from support.platform import clean_environment
from trivium.cli.main import app
from trivium.errors import ConfigurationError
from trivium.store.engine import Database
from trivium.store.tables import metadata

RUNNER = CliRunner()


@pytest.fixture
def url(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", made)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    return made


def _run(*words: str) -> tuple[int, str, str]:
    done = RUNNER.invoke(app, ["db", *words])
    if isinstance(done.exception, ConfigurationError):
        return 1, done.stdout, done.exception.detail
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_schema_goes_up_and_down_and_current_says_where_it_is(url: str) -> None:
    code, shown, told = _run("current")
    assert code == 1 and "0001  The first tables." in shown and "trivium db upgrade" in told
    assert _run("upgrade", "0004")[0] == 0
    code, shown, told = _run("current")
    assert code == 1 and "at revision 0004, this version needs 0006" in told
    (line,) = [line for line in shown.splitlines() if "<- the database" in line]
    assert line.startswith("0004")
    assert _run("upgrade")[0] == 0
    assert _run("current")[0] == 0 and _run("check")[0] == 0
    assert _run("downgrade", "0005")[1].endswith("is at 0005\n")
    assert "no revision '5'" in _run("downgrade", "5")[2]
    assert "use `trivium db upgrade 0006`" in _run("downgrade", "0006")[2]


async def test_forget_shows_by_table_what_would_go_and_then_takes_it_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert (await asyncio.to_thread(_run, "upgrade"))[0] == 0
    database = Database(url)
    async with database.transaction() as connection:
        await fill(connection, metadata, time.time() - 4_000 * 86_400)
    before = await counts(database, metadata)
    code, shown, _ = await asyncio.to_thread(_run, "forget", "--dry-run")
    assert code == 0 and "rows would go" in shown
    assert await counts(database, metadata) == before
    # A row of the table for each: its name, the count, and which setting says so.
    for table, why in (("audit_event", "TRIVIUM_RETENTION_AUDIT_DAYS"), ("attempt", "without an inference")):
        (line,) = [line for line in shown.splitlines() if f" {table} " in line and why in line]
        assert " 1 " in line
    code, shown, _ = await asyncio.to_thread(_run, "forget")
    assert code == 0 and "rows went" in shown
    after = await counts(database, metadata)
    assert after["attempt"] == 0 and after["archive_item"] == 1
    assert after["audit_event"] == 2, "only what this test did: to upgrade, and to forget"
    code, shown, _ = await asyncio.to_thread(_run, "forget", "--dry-run")
    assert code == 0 and "nothing would go" in shown
    await database.close()


def test_a_copy_is_for_its_owner_only_and_overwrites_nothing(url: str, tmp_path: Path) -> None:
    assert _run("upgrade")[0] == 0
    code, shown, _ = _run("backup", str(tmp_path / "copy.db"))
    assert code == 0 and "checked" in shown
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert "is there already" in _run("backup", str(tmp_path / "copy.db"))[2]


@pytest.mark.parametrize("module", ["gateway", "batch_worker"])
def test_a_service_refuses_an_older_schema_in_one_sentence(url: str, tmp_path: Path, module: str) -> None:
    assert _run("upgrade", "0004")[0] == 0
    ports = {f"TRIVIUM_{name}_PORT": str(free_port()) for name in ("GATEWAY", "WORKER")}
    given = {name: value for name, value in os.environ.items() if name.startswith("TRIVIUM_")}
    own = {"TRIVIUM_STATE_DIR": str(tmp_path / "state"), "TRIVIUM_SERVICE_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=clean_environment() | given | own | ports,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert (
        "The database is at revision 0004, this version needs 0006: run `trivium db upgrade`" in done.stdout
    )
    assert "Traceback" not in done.stdout + done.stderr
