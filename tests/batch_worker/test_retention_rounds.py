"""What has been kept long enough goes by one worker at a time, and is counted."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update

from batch_worker.retention import LEASE, RetentionRounds
from support.filled import fill, rows_in
from trivium.errors import Unavailable
from trivium.features import load_catalogue
from trivium.retention.forgetting import Forgetting
from trivium.retention.settings import RetentionSettings
from trivium.store.engine import Database
from trivium.store.leases import LeaseRepository
from trivium.store.sweeps import Step, Sweep
from trivium.store.tables import audit_event, lease, metadata

DELETED, SUCCESS = "trivium_retention_deleted_total", "trivium_retention_last_success_timestamp_seconds"


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def _rounds(database: Database, root: Path, name: str, every_s: float = 60.0) -> RetentionRounds:
    forgetting = Forgetting(database, load_catalogue(root / "features"), RetentionSettings())
    return RetentionRounds(forgetting, LeaseRepository(database), every_s, name)


@pytest.fixture
async def filled(database: Database) -> Database:
    async with database.transaction() as connection:
        await fill(connection, metadata, time.time() - 4_000 * 86_400)
    return database


async def test_one_worker_forgets_and_counts_and_the_other_waits_for_its_turn(
    filled: Database, root: Path
) -> None:
    before, began = _value(DELETED, table="audit_event"), time.time()
    first, second = _rounds(filled, root, "a"), _rounds(filled, root, "b")
    assert await first.forget()
    assert _value(DELETED, table="audit_event") == before + 1
    assert _value(DELETED, table="attempt") >= 1
    assert _value(SUCCESS) >= began
    assert await rows_in(filled, audit_event) == []
    assert not await second.forget(), "until a round is due again"
    async with filled.transaction() as connection:
        await connection.execute(update(lease).where(lease.c.name == LEASE).values(until=0.0))
    assert await second.forget()


async def test_a_worker_that_ends_gives_its_turn_away_and_keeps_what_it_knows(
    filled: Database, root: Path
) -> None:
    running = asyncio.create_task(_rounds(filled, root, "a").run())
    while await rows_in(filled, audit_event):
        await asyncio.sleep(0.02)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    names = [row["name"] for row in await rows_in(filled, lease)]
    assert LEASE not in names and any(name.startswith("known:") for name in names)
    assert await _rounds(filled, root, "b").forget()


async def test_a_round_that_was_cut_short_is_no_success_and_the_next_goes_on(
    filled: Database, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Forgetting.run

    async def cut(self: Forgetting, **options: Any) -> AsyncGenerator[tuple[Sweep, Step], None]:
        async for found in whole(self, **options):
            yield found
            raise Unavailable("The database is away", retry_after_s=1)

    rounds, before = _rounds(filled, root, "a", every_s=0.05), _value(SUCCESS)
    with monkeypatch.context() as broken:
        broken.setattr(Forgetting, "run", cut)
        with pytest.raises(Unavailable):
            await rounds.forget()
        running = asyncio.create_task(rounds.run())
        await asyncio.sleep(0.3)
        assert not running.done(), "it tries again"
    assert _value(SUCCESS) == before
    while _value(SUCCESS) == before:
        await asyncio.sleep(0.02)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await rows_in(filled, audit_event) == []
