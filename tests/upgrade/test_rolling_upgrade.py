"""A new version beside the old one, on one database and under load; and back again."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, select

from support.edge import RunningEdge
from support.platform import ROOT
from support.postgres import Postgres
from support.releases import Instance, Release, Traffic, release_of
from support.valkey import Valkey
from support.workers import make_features
from trivium.store.engine import Database
from trivium.store.schema import schema_of
from trivium.store.tables import attempt, feedback, inference, precompute_run, precomputed_result

OLD = "4db9471552188f40f756fb761d839b5d15b9ed1b"
"""The last version with the schema of revision 0004."""
NEW = Release(ROOT)
PER_SECOND = 20


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    found = release_of(OLD, tmp_path_factory.mktemp("old"))
    if found is None:
        pytest.skip(f"the history of this checkout does not reach to {OLD[:7]}: git fetch --unshallow")
    return found


@pytest.fixture
def old_edge(old: Release, root: Path, tmp_path: Path) -> Iterator[RunningEdge]:
    running = RunningEdge(root / "models", tmp_path / "old-edge.log")
    running._environment |= old.environment
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    (tmp_path / "valkey").mkdir()
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as made:
        yield made


def _flags(folder: Path) -> Path:
    """Everybody gets the AI."""
    everybody = [{"name": "ticket-triage", "enabled": True, "strategies": [{"name": "default"}]}]
    path = folder / "flags.json"
    path.write_text(json.dumps({"version": 1, "features": everybody}))
    return path


async def _start_run(traffic: Traffic, instance: Instance, number: int) -> str:
    lines = "".join(f'{{"id": "R{number}-{n}", "text": "text {n}"}}\n' for n in range(100))
    headers = {"Authorization": f"Bearer {traffic.key}", "Content-Type": "application/x-ndjson"}
    url = f"{instance.url}/v1/features/ticket-triage/precompute?variant=by-template&overlap=queue"
    async with traffic.session.post(url, data=lines, headers=headers) as response:
        assert response.status in (200, 201, 202), await response.text()
        return str((await response.json())["run_id"])


async def test_no_request_fails_while_versions_change_and_change_back(
    old: Release,
    old_edge: RunningEdge,
    edge: RunningEdge,
    postgres: Postgres,
    valkey: Valkey,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    shared = {
        "TRIVIUM_DATABASE_URL": postgres.new_database(),
        "TRIVIUM_REDIS_URL": valkey.url,
        "TRIVIUM_FEATURES_DIR": str(make_features(tmp_path)),
        "TRIVIUM_FLAGS_FILE": str(_flags(tmp_path)),
        "TRIVIUM_STATE_DIR": str(tmp_path / "state"),
    }
    # Each version asks the other's edge model: on a real platform it may be the older or the newer one.
    of_old = {**shared, "TRIVIUM_EDGE_URL": f"http://127.0.0.1:{edge.port}"}
    of_new = {**shared, "TRIVIUM_EDGE_URL": f"http://127.0.0.1:{old_edge.port}"}
    old.run("db", "upgrade", env=shared)
    shown = old.run("keys", "create", "app", "--scopes", "infer,feedback,precompute", env=shared)
    key = next(word for word in shown.split() if word.startswith("trv_"))
    database = Database(shared["TRIVIUM_DATABASE_URL"])
    traffic = Traffic(session, key)
    instances = {
        name: Instance(name, release, module, env, tmp_path)
        for name, release, module, env in (
            ("old-gateway", old, "gateway", of_old),
            ("old-worker", old, "batch_worker", of_old),
            ("new-gateway", NEW, "gateway", of_new),
            ("new-worker", NEW, "batch_worker", of_new),
            ("old-gateway-again", old, "gateway", of_old),
            ("old-worker-again", old, "batch_worker", of_old),
        )
    }
    gateway, worker, new, new_worker, again, worker_again = instances.values()
    runs = []
    try:
        gateway.start()
        worker.start()
        await traffic.until_ready(gateway)
        assert old.runs_its_own(
            "services/gateway/gateway", "services/edge-model/edge_model", "shared/trivium/store"
        )
        assert (await schema_of(database)).revision == "0004"
        async with traffic.flowing(PER_SECOND):
            runs.append(await _start_run(traffic, gateway, 1))
            await traffic.reaches(20)
            NEW.run("db", "upgrade", env=shared)
            assert (await schema_of(database)).fault is None
            new.start()
            new_worker.start()
            runs.append(await _start_run(traffic, gateway, 2))
            await traffic.reaches(20, by=gateway)
            await traffic.until_ready(new)
            await traffic.reaches(20, by=new)
            # As a balancer and a pod that ends: no new requests, and those under way are answered.
            traffic.rotation.remove(gateway)
            assert await _drained(gateway, worker)
            runs.append(await _start_run(traffic, new, 3))
            await traffic.reaches(20)
            again.start()
            worker_again.start()
            await traffic.until_ready(again)
            traffic.rotation.remove(new)
            assert await _drained(new, new_worker)
            runs.append(await _start_run(traffic, again, 4))
            await traffic.reaches(20, by=again)
        for run_id in runs:
            await _ended(traffic, again, run_id)
        assert await _drained(again, worker_again)
    finally:
        for instance in instances.values():
            instance.kill()
        await database.close()
    assert traffic.failed == []
    assert "edge-v1" in {one["served_by"]["variant"] for one in traffic.answered.values()}
    # A busy machine may be late; no version may fail to understand the other.
    degraded = {one["fallback_reason"] for one in traffic.answered.values() if one["degraded"]}
    assert degraded <= {"timeout", "overloaded"}
    await _account(database, traffic, runs, tmp_path)


async def _drained(*instances: Instance) -> bool:
    """Ends them; a server that has drained ends with 0, and an older one by the signal that it was sent."""
    return {await instance.stop() for instance in instances} <= {0, -signal.SIGTERM}


async def _ended(traffic: Traffic, instance: Instance, run_id: str) -> None:
    headers = {"Authorization": f"Bearer {traffic.key}"}
    for _ in range(600):
        async with traffic.session.get(f"{instance.url}/v1/precompute/{run_id}", headers=headers) as response:
            found: dict[str, Any] = await response.json()
        if found["state"] not in ("queued", "running"):
            assert found["state"] == "done" and found["computed"] == 100, found
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def _account(database: Database, traffic: Traffic, runs: list[str], folder: Path) -> None:
    """Every answer and everything said of one is stored, once, whoever took it."""
    own, said, tried = inference.c, feedback.c, attempt.c
    async with database.transaction() as connection:
        stored: set[str] = set((await connection.execute(select(own.id))).scalars())
        heard: list[str] = list((await connection.execute(select(said.inference_id))).scalars())
        attempts: set[str] = set((await connection.execute(select(tried.inference_id))).scalars())
        ended = select(func.count()).where(precompute_run.c.state == "done")
        done = int((await connection.execute(ended)).scalar_one())
        results = select(func.count()).select_from(precomputed_result)
        computed = int((await connection.execute(results)).scalar_one())
    await database.close()
    assert stored == traffic.answered.keys() == attempts
    assert sorted(heard) == sorted(traffic.said) and traffic.said == stored
    assert (done, computed) == (len(runs), 100 * len(runs))
    assert not list(folder.glob("state-*/journal/rejected.jsonl"))
    assert not list(folder.glob("state-*/journal/*/*.jsonl")), "everything was carried over"
