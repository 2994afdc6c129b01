"""Several workers' watches on one database: each check is made once, and all show it."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select
from structlog.testing import capture_logs

from batch_worker import drift_watch
from batch_worker.drift_watch import DriftWatch
from support.drifting import Traffic, a_feature, store
from trivium.drift.checking import DriftCheck
from trivium.edge import EdgeClient
from trivium.features import Catalogue, Feature
from trivium.store.drift import DriftRepository
from trivium.store.engine import Database, migrate
from trivium.store.leases import LeaseRepository
from trivium.store.tables import drift_report, lease

REFERENCE, WINDOW = 200, 60
DUE = datetime(2026, 3, 1, 10, 17, tzinfo=UTC)


@pytest.fixture
def feature(root: Path) -> Feature:
    """One without an edge model, so that there is nothing to ask for embeddings."""
    return a_feature(root, "ticket-summary", reference=REFERENCE, window=WINDOW, cron="17 * * * *")


async def _serve(database: Database, feature: Feature, count: int, start: float, **changes: Any) -> None:
    drawn, _ = Traffic(**changes).draw(count, np.random.default_rng(int(start)))
    texts = [one.input["text"] for one in drawn if one.input]
    await store(database, feature, texts, start=start, output=lambda text: {"summary": text[:40]})


def _watches(
    database: Database, feature: Feature, session: aiohttp.ClientSession, count: int
) -> list[DriftWatch]:
    edge = EdgeClient("http://127.0.0.1:9", "key", session)
    made = []
    for number in range(count):
        seen = DriftRepository(database)
        leases, name = LeaseRepository(database), f"worker-{number}"
        catalogue = Catalogue({feature.name: feature})
        made.append(DriftWatch(catalogue, DriftCheck(seen, edge), seen, leases, name))
    return made


async def _reports(database: Database) -> list[Any]:
    async with database.reading() as connection:
        rows = await connection.execute(select(drift_report).order_by(drift_report.c.window_from))
        return list(rows)


def _shown(name: str, **labels: str) -> float | None:
    labels = {"feature": "ticket-summary", "variant": "llm-v1", **labels}
    return REGISTRY.get_sample_value(name, labels)


async def test_each_check_is_made_once_whoever_looks(database: Database, feature: Feature) -> None:
    await _serve(database, feature, REFERENCE, 1_000.0)
    await _serve(database, feature, 2 * WINDOW, 2_000.0)
    async with aiohttp.ClientSession() as session:
        watches = _watches(database, feature, session, 3)
        with capture_logs() as logs:
            for _ in range(2):
                await asyncio.gather(*(one.look(feature, DUE) for one in watches))
        (first,) = await _reports(database)
        assert (first.rows, first.drifted) == (WINDOW, False)
        assert (first.window_from, first.window_until) == (2_060.0, 2_119.0), "the newest"
        assert not [line for line in logs if line["event"] == "drift_found"]
        assert _shown("trivium_drift_detected") == 0
        score = _shown("trivium_drift_score", column="length")
        assert score is not None and score < 1

        # Nothing new has come: the next hour's check has nothing to say.
        later = DUE + timedelta(hours=1)
        await asyncio.gather(*(one.look(feature, later) for one in watches))
        assert len(await _reports(database)) == 1

        await _serve(database, feature, WINDOW, 3_000.0, words=15, rare=0.2)
        latest = DUE + timedelta(hours=2)
        with capture_logs() as logs:
            for _ in range(2):
                await asyncio.gather(*(one.look(feature, latest) for one in watches))
        _, second = await _reports(database)
        assert second.drifted and second.window_from == 3_000.0
        (line,) = [line for line in logs if line["event"] == "drift_found"]
        assert (line["log_level"], line["feature"], line["report"]) == ("warning", feature.name, second.id)
        assert {"length", "new_words"} <= line["columns"].keys()
        assert _shown("trivium_drift_detected") == 1
        score = _shown("trivium_drift_score", column="new_words")
        assert score is not None and score > 1

        # A worker that starts now shows what the others found.
        (new,) = _watches(database, feature, session, 1)
        await new.look(feature, latest)
        assert len(await _reports(database)) == 2
    async with database.reading() as connection:
        assert not (await connection.execute(select(lease.c.name))).all()


async def test_a_lease_that_has_lapsed_does_not_make_for_two_reports(
    database: Database, feature: Feature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_watch, "LEASE_S", -1.0)
    await _serve(database, feature, REFERENCE, 1_000.0)
    await _serve(database, feature, WINDOW, 2_000.0, words=15, rare=0.2)
    async with aiohttp.ClientSession() as session:
        watches = _watches(database, feature, session, 3)
        with capture_logs() as logs:
            await asyncio.gather(*(one.look(feature, DUE) for one in watches))
    assert len(await _reports(database)) == 1
    assert [line["event"] for line in logs] == ["drift_found"]


async def test_too_little_traffic_and_a_time_that_has_not_come(feature: Feature, tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    await migrate(database)
    async with aiohttp.ClientSession() as session:
        (watch,) = _watches(database, feature, session, 1)
        await _serve(database, feature, REFERENCE + WINDOW - 1, 1_000.0)
        await watch.look(feature, DUE)
        assert not await _reports(database)
        await _serve(database, feature, 1, 5_000.0)
        await watch.look(feature, DUE + timedelta(minutes=30))
        assert not await _reports(database), "it is due at 17 past"
        await watch.look(feature, DUE + timedelta(hours=1))
        assert len(await _reports(database)) == 1
    await database.close()


async def test_a_database_that_is_away_is_told_and_tried_again(feature: Feature, tmp_path: Path) -> None:
    (tmp_path / "away.db").mkdir()
    away = Database(f"sqlite+aiosqlite:///{tmp_path / 'away.db'}")
    async with aiohttp.ClientSession() as session:
        (watch,) = _watches(away, feature, session, 1)
        with capture_logs() as logs:
            await watch.look(feature, DUE)
    await away.close()
    assert [(line["event"], line["detail"]) for line in logs] == [
        ("drift_could_not_look", "The database is away")
    ]
