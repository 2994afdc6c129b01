"""Several workers' guards on one database: one of them looks, and they decide once."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from batch_worker.guard import GuardRounds
from support.rollouts import Watched, watched
from trivium.domain.inference import Arm
from trivium.domain.rollout import Stage
from trivium.features import Catalogue
from trivium.flag_admin import FlagAdminSettings, UnleashAdmin
from trivium.rollouts.guard import Guard
from trivium.rollouts.stages import Rollouts
from trivium.store.engine import Database
from trivium.store.leases import LeaseRepository
from trivium.store.tables import lease


def _rounds(of: Watched, name: str, guard: Guard | None = None, interval_s: float = 0.05) -> GuardRounds:
    catalogue = Catalogue({of.feature.name: of.feature})
    return GuardRounds(catalogue, guard or of.guard, LeaseRepository(of.database), interval_s, name)


async def _holders(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set((await connection.execute(select(lease.c.holder))).scalars())


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def stage(database: Database, root: Path, tmp_path: Path) -> Watched:
    made = watched(database, root, tmp_path)
    await made.enter(Stage.EXPAND_50)
    return made


@pytest.mark.parametrize("treated", [(300, 0), (300, 150)], ids=["mismatch", "regression"])
async def test_workers_that_look_at_once_decide_once(stage: Watched, treated: tuple[int, int]) -> None:
    subjects, degraded = treated
    await stage.serve(Arm.TREATMENT, subjects, requests=1, degraded=degraded)
    await stage.serve(Arm.CONTROL, 150, requests=1)
    others = [_rounds(stage, f"worker-{n}") for n in range(4)]
    for _ in range(2):
        await asyncio.gather(*(one.look(stage.feature) for one in others))
    (made,) = await stage.decisions()
    assert made.action == ("roll_back" if degraded else "hold")


async def test_a_worker_goes_on_and_another_takes_over_when_it_ends(stage: Watched) -> None:
    first, second = (asyncio.create_task(_rounds(stage, name).run()) for name in ("one", "two"))
    try:
        await _until(lambda: _held_by(stage, {"one"}, {"two"}))
        (looks,) = await _holders(stage.database)
        ends, stays = (first, second) if looks == "one" else (second, first)
        ends.cancel()
        await asyncio.wait([ends])
        await _until(lambda: _held_by(stage, {"one", "two"} - {looks}))
        await stage.serve(Arm.TREATMENT, 150, requests=1, degraded=100)
        await stage.serve(Arm.CONTROL, 150, requests=1)
        await _until(stage.decisions)
        assert not stays.done()
    finally:
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
    assert await _holders(stage.database) == set()


async def _held_by(stage: Watched, *sets: set[str]) -> bool:
    return await _holders(stage.database) in sets


async def test_a_lease_is_free_again_at_its_end(database: Database) -> None:
    leases = LeaseRepository(database)
    assert await leases.take("guard:a", "one", 60)
    assert await leases.take("guard:a", "one", -1), "one's own"
    assert await leases.take("guard:a", "two", 60), "it had ended"
    assert not await leases.take("guard:a", "one", 60)
    assert await leases.take("guard:b", "one", 60)


async def test_what_is_away_is_said_and_tried_again(stage: Watched, tmp_path: Path) -> None:
    await stage.serve(Arm.TREATMENT, 150, requests=1, degraded=100)
    await stage.serve(Arm.CONTROL, 150, requests=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = FlagAdminSettings(
            unleash_url=f"http://127.0.0.1:{taken.getsockname()[1]}/api", unleash_admin_token="*:*.token"
        )
        async with aiohttp.ClientSession() as session:
            rollouts = Rollouts(stage.rollouts.decisions, UnleashAdmin(settings, session))
            rounds = _rounds(stage, "one", replace(stage.guard, rollouts=rollouts))
            with capture_logs() as logs:
                await rounds.look(stage.feature)
    assert [(line["event"], line["log_level"]) for line in logs] == [("guard_could_not_look", "warning")]
    assert "Unleash" in logs[0]["detail"]
    assert await stage.decisions() == []
    await _rounds(stage, "one").look(stage.feature)
    assert [one.action for one in await stage.decisions()] == ["roll_back"]


async def test_a_database_that_is_away_ends_no_worker(root: Path, tmp_path: Path) -> None:
    (tmp_path / "away.db").mkdir()  # SQLite cannot open a folder
    away = Database(f"sqlite+aiosqlite:///{tmp_path / 'away.db'}")
    running = asyncio.create_task(_rounds(watched(away, root, tmp_path), "one").run())
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            while len(logs) < 2:
                await asyncio.sleep(0.02)
    assert not running.done()
    assert {line["event"] for line in logs} == {"guard_could_not_look"}
    running.cancel()
    await asyncio.wait([running])
    await away.close()
