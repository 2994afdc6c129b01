"""Wishes are noted once, off the hot path, and none is lost while the database is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest
from sqlalchemy import select

from trivium.errors import Unavailable
from trivium.store.engine import Database
from trivium.store.refresher import Refresher
from trivium.store.results import Refresh, ResultRepository
from trivium.store.tables import refresh_request


class AwayDatabase(Protocol):
    """What the fixture `away` gives."""

    database: Database
    appear: Callable[[], Awaitable[None]]


def _refresher(database: Database) -> Refresher:
    return Refresher(ResultRepository(database))


def _wish(key: str, reason: Any = "input", record: dict[str, Any] | None = None) -> Refresh:
    return Refresh("triage", "stored", key, reason, record)


async def _noted(database: Database) -> dict[str, tuple[str, dict[str, Any] | None]]:
    want = refresh_request.c
    async with database.transaction() as connection:
        rows = await connection.execute(select(want.entity_key, want.reason, want.record))
        return {row.entity_key: (row.reason, row.record) for row in rows}


async def _forget(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(refresh_request.delete())


async def _until_noted(database: Database, keys: set[str]) -> None:
    async with asyncio.timeout(8):
        while set(await _noted(database)) != keys:
            await asyncio.sleep(0.02)


async def test_wishes_are_noted_in_the_background(database: Database) -> None:
    refresher = _refresher(database)
    refresher.start()
    refresher.ask(_wish("1", "missing", {"text": "x"}))
    refresher.ask(_wish("2"))
    await _until_noted(database, {"1", "2"})
    assert await _noted(database) == {"1": ("missing", {"text": "x"}), "2": ("input", None)}
    await refresher.stop()


async def test_the_same_is_not_asked_for_again_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresher = _refresher(database)
    for _ in range(3):
        refresher.ask(_wish("1"))
    await refresher.flush()
    await _forget(database)
    refresher.ask(_wish("1"))
    await refresher.flush()
    assert await _noted(database) == {}
    monkeypatch.setattr("trivium.store.refresher.AGAIN_S", 0.0)
    refresher.ask(_wish("1"))
    await refresher.flush()
    assert set(await _noted(database)) == {"1"}


async def test_another_record_and_a_correction_are_asked_for_at_once(database: Database) -> None:
    refresher = _refresher(database)
    for wish in (_wish("1", record={"text": "old"}), _wish("2", "correction")):
        refresher.ask(wish)
    await refresher.flush()
    await _forget(database)
    for wish in (_wish("1", record={"text": "new"}), _wish("2", "correction")):
        refresher.ask(wish)
    await refresher.flush()
    assert await _noted(database) == {"1": ("input", {"text": "new"}), "2": ("correction", None)}


async def test_what_waits_already_is_asked_for_with_its_newest_record(database: Database) -> None:
    refresher = _refresher(database)
    refresher.ask(_wish("1", record={"text": "old"}))
    refresher.ask(_wish("1", record={"text": "new"}))
    await refresher.flush()
    assert await _noted(database) == {"1": ("input", {"text": "new"})}


async def test_gateways_that_ask_at_once_make_one_wish(database: Database) -> None:
    refreshers = [_refresher(database) for _ in range(4)]
    keys = [f"{n:03d}" for n in range(200)]
    for number, refresher in enumerate(refreshers):
        for key in keys if number % 2 else reversed(keys):
            refresher.ask(_wish(key))
    await asyncio.gather(*(refresher.flush() for refresher in refreshers))
    assert sorted(await _noted(database)) == keys


async def test_while_the_database_is_away_wishes_wait_and_are_then_noted(
    away: AwayDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.refresher.RETRY_S", 2.0)  # SQLite's schema is there by then
    refresher = _refresher(away.database)
    refresher.start()
    refresher.ask(_wish("1"))
    await asyncio.sleep(0.3)
    refresher.ask(_wish("2"))
    await away.appear()
    await _until_noted(away.database, {"1", "2"})
    await refresher.stop()


async def test_what_waits_is_bounded_however_long_the_database_is_away(
    away: AwayDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.refresher.MOST", 5)
    refresher = _refresher(away.database)
    for turn in range(4):
        for n in range(10):
            refresher.ask(_wish(f"before-{turn}-{n}"))
        flushing = asyncio.create_task(refresher.flush())
        await asyncio.sleep(0)  # it is under way
        for n in range(10):
            refresher.ask(_wish(f"during-{turn}-{n}"))
        with pytest.raises(Unavailable):
            await flushing
    await away.appear()
    await refresher.flush()
    assert set(await _noted(away.database)) == {f"before-0-{n}" for n in range(5)}
    refresher.ask(_wish("after"))
    await refresher.flush()
    assert "after" in await _noted(away.database)


async def test_a_wish_that_comes_while_others_are_noted_is_noted_next(database: Database) -> None:
    refresher = _refresher(database)
    refresher.ask(_wish("1"))
    flushing = asyncio.create_task(refresher.flush())
    await asyncio.sleep(0)
    refresher.ask(_wish("2"))
    await flushing
    await refresher.flush()
    assert set(await _noted(database)) == {"1", "2"}


async def test_stopping_notes_what_waits_also_in_the_middle_of_noting_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.refresher.FLUSH_S", 0.0)
    for turn in range(10):
        refresher = _refresher(database)
        refresher.start()
        refresher.ask(_wish(f"key-{turn}"))
        for _ in range(turn):
            await asyncio.sleep(0)
        await refresher.stop()
    assert set(await _noted(database)) == {f"key-{turn}" for turn in range(10)}


async def test_a_wish_that_the_database_refuses_holds_back_no_later_one(database: Database) -> None:
    refresher = _refresher(database)
    refresher.start()
    refresher.ask(_wish("no text: \ud800"))
    await asyncio.sleep(0.3)
    refresher.ask(_wish("1"))
    await _until_noted(database, {"1"})
    await refresher.stop()
