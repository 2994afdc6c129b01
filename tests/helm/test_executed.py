"""What the chart makes is run: commands, variables, probes, hooks and signals, on real servers.

The tests of a values file stand in order: the last ones end what the first ones ask.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from support.callers import calling
from support.charts import render, values_of
from support.edge import free_port
from support.installed import Outside, Release, installed, outside, referenced
from support.platform import ROOT
from support.postgres import Postgres

LAPTOP, STAGING, PRODUCTION = (f"values-{kind}.yaml" for kind in ("laptop", "staging", "production"))
FEATURES = {
    str(path.relative_to(ROOT / "features")): path.read_text("utf-8")
    for path in (ROOT / "features").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
SHARED = {
    "gateway": {"preStopSeconds": 1},  # a cluster has more proxies to tell
    "llm": {"localBaseUrl": "http://llm.models:8000/v1"},
}
CHANGES: dict[str, dict[str, Any]] = {
    LAPTOP: {"worker": {"graceSeconds": 0}},  # it hands back what it has begun
    STAGING: {
        "features": {"source": "files", "files": FEATURES},
        "routes": {"route/chat": {"targets": [{"provider": "local", "model": "smollm2"}]}},
        "loadTest": {"rate": 20, "seconds": 1, "p99Milliseconds": 5000},
    },
    PRODUCTION: {"edge": {"models": {"url": (ROOT / "models").as_uri()}}},
}


def _merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    made = dict(base)
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, dict) and isinstance(made.get(key), dict)
            made[key] = _merged(made[key], value) if both else value
    return made


async def _until(holds: Callable[[], Awaitable[object]], pause_s: float = 0.05, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(pause_s)


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(tmp_path_factory.mktemp("valkey")) as found:
        yield found


@pytest.fixture(scope="module", params=list(CHANGES))
async def release(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    around: Outside,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Release]:
    """A values file, installed as the documentation says: keys and first results are made afterwards."""
    file = request.param
    manifests = render(_merged(values_of(file), SHARED, CHANGES[file]))
    folder = tmp_path_factory.mktemp("cluster")
    with installed(file, manifests, folder, postgres.new_database(), around) as made:
        secrets: Any = made.cluster.secrets
        if file == LAPTOP:
            made.exec("-worker", "trivium", "precompute", "similar-tickets", "--from", "source")
            key = made.exec("-worker", "trivium", "keys", "create", "smoke", "--scopes", "infer")
        else:
            run_id = await made.compute(kind="source")
            await _until(lambda: made.ended(run_id))
            key = await made.key()
        secrets["trivium-smoke", "api-key"] = key
        yield made
        await made.database.close()


def test_the_three_patterns_answer_the_smoke_pod(release: Release) -> None:
    done = release.once("Pod", "-smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    for feature, answered in {
        "ticket-triage": "treatment by edge-v1 (edge, ticket-triage/2)",
        "similar-tickets": "treatment by neighbours-v1 (precomputed, ",
        "ticket-summary": "treatment by llm-v1 (api, smollm2",
    }.items():
        assert f"{feature}: {answered}" in done.stdout


def test_the_load_job_measures(release: Release) -> None:
    if release.file != STAGING:
        assert not any(one["metadata"]["name"].endswith("-load-test") for one in release.manifests)
        return
    done = release.once("Job", "-load-test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Held at 20/s" in done.stdout


def test_every_secret_that_is_given_is_asked_for_and_no_other(release: Release) -> None:
    assert set(referenced(release.manifests)) == set(release.cluster.secrets)


def test_a_probe_fails_once_what_it_asks_is_gone(release: Release) -> None:
    worker = release.pods["-worker"].main[0]
    port = worker.container.spec["ports"][0]["containerPort"]
    of = (worker.container.workload["metadata"]["name"], port)
    assert worker.asks("readinessProbe")
    kept, release.cluster.ports[of] = release.cluster.ports[of], free_port()
    assert not worker.asks("readinessProbe")
    release.cluster.ports[of] = kept


def test_traces_reach_the_collector_where_one_is_given(release: Release) -> None:
    if release.file == STAGING:
        assert release.traces.find(service="trivium-gateway", kind="server")
    else:
        assert "OTEL_" not in str(release.manifests)


async def test_a_worker_that_goes_leaves_no_chunk_behind(release: Release) -> None:
    await release.compute(kind="archive")
    await _until(release.leased, 0.002)
    codes = await asyncio.to_thread(release.pods["-worker"].end)
    assert codes == [0] * len(codes)
    assert await release.leased() == 0


async def test_a_gateway_that_goes_loses_no_request(release: Release) -> None:
    pod = release.pods["-gateway"]
    port = pod.main[0].port_of("http")
    leave = Event()
    asked = {"ticket-triage": (0.0, 0.05, 0.3, 0.9), "ticket-summary": (0.02,)}
    with calling(port, release.cluster.secrets["trivium-smoke", "api-key"], asked, leave) as callers:
        # By the end of the hook, no proxy sends new connections to a pod that goes.
        codes = await asyncio.to_thread(pod.end, leave.set)
    assert [caller.faults for caller in callers if caller.faults] == []
    assert all(caller.answers for caller in callers)
    assert codes == [0] * len(codes)
    assert {answer for caller in callers for answer in caller.answers} <= await release.kept()


def test_an_edge_model_that_goes_ends_well(release: Release) -> None:
    if release.file == LAPTOP:  # it went with the gateway
        assert [one.popen.returncode for one in release.pods["-gateway"].sidecars] == [0]
    else:
        assert release.pods["-edge"].end() == [0]


def test_nothing_was_written_but_where_a_volume_is(release: Release) -> None:
    for pod in release.pods.values():
        for process in pod.processes:
            assert list(process.container.root.iterdir()) == [], process.container.name


def test_the_example_of_production_names_the_model_that_is_shipped() -> None:
    (item,) = values_of(PRODUCTION)["edge"]["models"]["items"]
    card = ROOT / "models" / item["model"] / "model.json"
    assert hashlib.sha256(card.read_bytes()).hexdigest() == item["sha256"]
    assert json.loads(card.read_text("utf-8"))["name"] == Path(item["model"]).parent.name
