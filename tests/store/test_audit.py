import ast
import asyncio
import inspect
import time
from pathlib import Path

import pytest

from trivium.errors import Unavailable
from trivium.store.audit import AuditEvent, AuditFilter, AuditRepository
from trivium.store.engine import Database
from trivium.store.retention_records import audit_events
from trivium.store.sweeps import Sweeper


async def test_events_come_back_as_they_were_the_newest_first(database: Database) -> None:
    audit = AuditRepository(database)
    before = time.time()
    first = await audit.record("cli:ann", "keys.create", "app", "done", {"scopes": ["infer"], "n": 1})
    second = await audit.record("key:k-1", "runs.start", "intents", "refused", None, "request-1")
    third = await audit.record("guard", "rollout.roll_back", "intents", "failed")
    assert await audit.list(10) == [third, second, first]
    assert first.detail == {"scopes": ["infer"], "n": 1}
    assert (second.detail, second.request_id, second.outcome) == (None, "request-1", "refused")
    assert before <= first.created_at <= third.created_at <= time.time()


async def test_pages_hold_everything_once_while_more_is_entered(database: Database) -> None:
    audit = AuditRepository(database)
    entered = [(await audit.record("guard", "a.b", str(number), "done")).id for number in range(7)]
    seen: list[str] = []
    after = None
    while page := await audit.list(3, after):
        seen += [event.id for event in page]
        after = page[-1].id
        await audit.record("guard", "a.b", "meanwhile", "done")
    assert seen == entered[::-1]


async def test_filters_are_exact_but_for_a_kind_of_action(database: Database) -> None:
    audit = AuditRepository(database)
    for actor, action, target in (
        ("cli:ann", "keys.create", "app"),
        ("cli:ann", "keys_other.create", "app"),
        ("cli:bob", "keys.revoke", "k-1"),
        ("guard", "rollout.hold", "intents"),
    ):
        await audit.record(actor, action, target, "done")
    for wanted, count in (
        (AuditFilter(actor="cli:ann"), 2),
        (AuditFilter(actor="cli:"), 0),
        (AuditFilter(action="keys"), 2),
        (AuditFilter(action="keys.create"), 1),
        (AuditFilter(action="key"), 0),
        (AuditFilter(action="%"), 0),
        (AuditFilter(target="app", action="keys"), 1),
        (AuditFilter(since=time.time() - 60), 4),
        (AuditFilter(since=time.time() + 60), 0),
    ):
        assert len(await audit.list(10, None, wanted)) == count, wanted


async def test_no_secret_and_nothing_that_a_database_cannot_hold_is_kept(database: Database) -> None:
    audit = AuditRepository(database)
    secret = "trv_" + "x" * 43  # pragma: allowlist secret
    event = await audit.record(
        "cli:" + "a" * 500,
        "b" * 500,
        f"nul \0 {secret}",
        "done",
        {
            "url": "postgresql://ann:hunter2@db/trivium",  # pragma: allowlist secret
            "nested": [{"header": f"Bearer {secret}"}, "sk-proj-1234567890"],
            "path": Path("file"),
            "key\0": "\0",
        },
        "r" * 500,
    )
    (stored,) = await audit.list(1)
    assert stored == event
    told = str(stored)
    assert secret not in told and "hunter2" not in told and "1234567890" not in told and "\\x00" not in told
    assert stored.detail and stored.detail["url"] == "postgresql://[secret]@db/trivium"
    assert len(stored.actor) == len(stored.request_id or "") == 128
    long = await audit.record("guard", "a", "b", "done", {"why": "x" * 100_000})
    assert len(str(long.detail)) < 5_000


async def test_a_database_that_is_away_is_told() -> None:
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:9/none")
    with pytest.raises(Unavailable):
        await AuditRepository(away).record("guard", "a", "b", "done")
    await away.close()


async def test_concurrent_writers_lose_nothing(database: Database) -> None:
    audit = AuditRepository(database)
    await asyncio.gather(*(audit.record("guard", "a.b", str(number), "done") for number in range(30)))
    assert len({event.id for event in await audit.list(100)}) == 30


def test_nothing_but_retention_changes_or_deletes_events(root: Path) -> None:
    """No code names the table but its definition, the repository (which inserts and reads) and retention."""
    naming = set()
    for path in sorted([*root.glob("shared/trivium/**/*.py"), *root.glob("services/**/*.py")]):
        if "audit_event" in {
            node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
        }:
            naming.add(str(path.relative_to(root)))
    assert naming == {
        "shared/trivium/store/tables.py",
        "shared/trivium/store/audit.py",
        "shared/trivium/store/retention_records.py",
    }
    source = ast.parse(inspect.getsource(inspect.getmodule(AuditRepository) or AuditRepository))
    calls = [node.func for node in ast.walk(source) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    named = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    assert {"insert", "select"} <= called
    assert not {"update", "delete", "text"} & (called | named)


async def test_retention_keeps_what_is_young(database: Database) -> None:
    audit = AuditRepository(database)
    event: AuditEvent = await audit.record("guard", "a", "b", "done")
    for before, left in ((event.created_at - 1, 1), (event.created_at + 1, 0)):
        await Sweeper(database).all(audit_events(before))
        assert len(await audit.list(10)) == left
