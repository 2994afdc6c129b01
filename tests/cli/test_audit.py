"""`trivium audit`, and what commands leave in it."""

import asyncio
import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from support.postgres import Postgres
from trivium.cli.audited import acting, actor, audited, made, note
from trivium.cli.main import app
from trivium.errors import ConfigurationError, NotFound, Unavailable
from trivium.store.audit import AuditEvent, AuditRepository
from trivium.store.engine import Database, migrate
from trivium.store.keys import KeyRepository

ME = f"cli:{getpass.getuser()}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, not yet migrated."""
    made = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        made = postgres.new_database()
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", made)
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    monkeypatch.setenv("COLUMNS", "200")
    return made


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _events(url: str) -> list[AuditEvent]:
    async def read() -> list[AuditEvent]:
        database = Database(url)
        try:
            return await AuditRepository(database).list(100)
        finally:
            await database.close()

    return asyncio.run(read())


def _shown(*words: str) -> list[dict[str, Any]]:
    done = _run("audit", "--json", *words)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_keys_life_stands_in_the_log_without_its_secrets(url: str) -> None:
    limits = ("--features", "ticket-triage,route/chat", "--requests-per-minute", "600")
    first = _run("keys", "create", "checkout", *limits).stdout.strip()
    assert first.startswith("trv_")
    (row,) = [json.loads(line) for line in _run("keys", "list", "--json").stdout.splitlines()]
    assert (row["features"], row["requests_per_minute"]) == (["route/chat", "ticket-triage"], 600)
    second = _run("keys", "rotate", row["id"], "--overlap", "30m", "--days", "90").stdout.strip()
    _, new = [json.loads(line) for line in _run("keys", "list", "--json").stdout.splitlines()]
    assert new["replaces"] == row["id"] and new["features"] == row["features"]
    assert new["expires_at"] - new["created_at"] == pytest.approx(90 * 86_400)
    assert isinstance(_run("keys", "revoke", "nobody").exception, NotFound)
    assert _run("keys", "revoke", row["id"]).exit_code == 0
    assert _run("keys", "rotate", new["id"], "--overlap", "1y").exit_code == 2
    events = _events(url)[::-1]
    assert [(event.actor, event.action, event.target, event.outcome) for event in events] == [
        (ME, "keys.create", "checkout", "done"),
        (ME, "keys.rotate", row["id"], "done"),
        (ME, "keys.revoke", "nobody", "refused"),
        (ME, "keys.revoke", row["id"], "done"),
        (ME, "keys.rotate", new["id"], "refused"),
    ]
    details = [event.detail or {} for event in events]
    assert details[0]["key"] == row["id"] and details[0]["features"] == "ticket-triage,route/chat"
    assert details[1]["successor"] == new["id"] and details[1]["overlap"] == "30m"
    assert "no valid key nobody" in details[2]["why"]
    assert "'1y'" in details[4]["why"]
    assert first not in str(events) and second not in str(events)
    table = _run("keys", "list").stdout
    for told in (row["id"], new["id"], "route/chat", "600 requests/min", "revoked", "replaces"):
        assert told in table
    assert first not in table and second not in table


def test_filters_pages_and_the_table(url: str) -> None:
    for name in ("a", "b", "c"):
        assert _run("keys", "create", name).exit_code == 0
    _run("keys", "revoke", "nobody")
    assert len(_shown("--since", "1h")) == 4
    assert not _shown("--since", "2120-01-01") and len(_shown("--since", "2020-01-01T12:00")) == 4
    assert [event["target"] for event in _shown("--action", "keys.create")] == ["c", "b", "a"]
    assert len(_shown("--action", "keys")) == 4 and not _shown("--actor", "guard")
    assert [event["outcome"] for event in _shown("--target", "nobody")] == ["refused"]
    page = _shown("--actor", ME, "--limit", "3")
    assert [event["target"] for event in _shown("--after", page[-1]["id"])] == ["a"]
    table = _run("audit", "--limit", "3")
    assert "keys.revoke" in table.stdout and "refused" in table.stdout and ME in table.stdout
    assert f"--after {page[-1]['id']}" in table.stderr
    assert "nothing that fits" in _run("audit", "--actor", "nobody").stdout
    wrong = _run("audit", "--since", "tuesday")
    assert wrong.exit_code == 2 and "2026-01-31T12:00" in wrong.stderr


def test_what_no_one_can_enter_is_said(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\nhello,greeting\n")
    words = ("data", "import", str(file), "--feature", "ticket-triage", "--as", "train")
    # A database that nobody has made yet, or that has no such table.
    done = _run(*words)
    assert done.exit_code == 0 and (tmp_path / "state/data/ticket-triage/train.jsonl").exists()
    assert "not in the audit log: data.import ticket-triage: " in done.stderr
    assert not (tmp_path / "trivium.db").exists()
    assert _run("db", "upgrade", "0004").exit_code == 0
    assert "the database has no audit log; `trivium db upgrade` makes it" in _run(*words).stderr
    assert _run("db", "upgrade").exit_code == 0
    assert not _run(*words).stderr
    imported, upgraded = _events(url)
    assert (imported.action, imported.target, imported.outcome) == ("data.import", "ticket-triage", "done")
    assert (upgraded.action, upgraded.target) == ("db.upgrade", "head")
    # One that is away.
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:9/none")
    done = _run(*words)
    assert done.exit_code == 0 and "not in the audit log" in done.stderr and "is away" in done.stderr


def test_the_kill_switch_works_and_is_told_while_the_database_is_away(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text('{"version": 1, "features": [{"name": "ticket-triage", "enabled": true}]}')
    monkeypatch.setenv("TRIVIUM_FLAGS_FILE", str(flags))
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:9/none")
    done = _run("rollout", "ticket-triage", "--roll-back", "--reason", "users complain")
    assert done.exit_code == 1 and "rolled back, but not recorded" in done.stdout
    assert "not in the audit log: rollout.roll_back ticket-triage: The database is away" in done.stderr
    assert json.loads(flags.read_text())["features"][0]["enabled"] is False


def test_what_only_looks_is_not_entered(url: str) -> None:
    assert _run("db", "upgrade").exit_code == 0
    for words in (
        ("keys", "list"),
        ("rollout", "ticket-triage"),
        ("db", "forget", "--dry-run"),
        ("results", "prune", "--dry-run"),
        ("review", "ticket-triage", "--list"),
        ("audit",),
    ):
        _run(*words)
    assert [event.action for event in _events(url)] == ["db.upgrade"]
    _run("rollout", "ticket-triage", "--advance")
    _run("results", "prune")
    refused, *_ = [event for event in _events(url) if event.action == "rollout.advance"]
    assert (refused.target, refused.outcome == "done") == ("ticket-triage", False)
    assert [event.target for event in _events(url) if event.action == "results.prune"] == ["all"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", made)

    async def prepare() -> None:
        database = Database(made)
        await migrate(database)
        await database.close()

    asyncio.run(prepare())
    return made


def _raises(error: BaseException) -> Callable[[str], None]:
    @audited("test.act")
    def command(name: str) -> None:
        note(noted=True)
        raise error

    return command


def test_how_a_command_ends_is_its_outcome(own: str) -> None:
    for error, outcome, why in (
        (typer.Exit(0), "done", None),
        (typer.Exit(1), "refused", "exit 1"),
        (typer.BadParameter("no"), "refused", "Invalid value: no"),
        (NotFound("there is none"), "refused", "there is none"),
        (ConfigurationError("misconfigured"), "failed", "misconfigured"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
        (ValueError("with trv_secretsecret"), "failed", "ValueError"),
    ):
        with pytest.raises(type(error)):
            _raises(error)("thing")
        event = _events(own)[0]
        assert (event.action, event.target, event.outcome) == ("test.act", "thing", outcome)
        assert event.detail == {"noted": True, **({"why": why} if why else {})}
    with pytest.raises(Unavailable):
        _raises(Unavailable("the database is away"))("thing")
    assert len(_events(own)) == 7


def test_what_was_made_stays_made_whatever_comes_of_it_later(own: str) -> None:
    @audited("test.start", target="name", detail=("force",))
    def command(name: str, force: bool = False) -> None:
        async def work() -> None:
            await made(run="r-1")
            raise ConfigurationError("the run failed")

        asyncio.run(work())

    with pytest.raises(ConfigurationError):
        command("thing", force=True)
    (event,) = _events(own)
    assert (event.outcome, event.detail) == ("done", {"force": True, "run": "r-1"})
    with acting("test.other", "thing", by="ann"):
        pass
    assert _events(own)[0].detail == {"by": "ann"}


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    assert actor() == ME
    monkeypatch.setattr("getpass.getuser", nameless)
    assert actor() == f"cli:uid-{os.getuid()}"


def test_when_a_key_was_last_used_is_listed(own: str) -> None:
    assert _run("keys", "create", "app").exit_code == 0
    assert "last used" not in _run("keys", "list").stdout

    async def use() -> None:
        database = Database(own)
        keys = KeyRepository(database)
        (row,) = await keys.list()
        await keys.note_use({row["id"]: 1_790_000_000.0})
        await database.close()

    asyncio.run(use())
    shown = _run("keys", "list").stdout
    assert "last used" in shown and "2026-09-21" in shown
