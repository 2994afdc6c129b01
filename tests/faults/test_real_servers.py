"""The platform on a PostgreSQL and a Valkey of one's own, and both of them lost while it answers."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.platform import RunningPlatform, free_offset
from support.postgres import Postgres
from support.valkey import Valkey

pytestmark = pytest.mark.platform


@dataclass
class Servers:
    platform: RunningPlatform
    postgres: Postgres
    valkey: Valkey


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Postgres() as postgres, Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        url = postgres.new_database().replace("postgresql+asyncpg://", "postgresql://")
        platform = RunningPlatform(
            tmp_path_factory.mktemp("servers") / "state",
            free_offset(),
            ["--database-url", url, "--redis-url", valkey.url],
        )
        try:
            yield Servers(platform.start(), postgres, valkey)
        finally:
            platform.stop()


def test_real_servers_are_used_instead_of_the_embedded_ones(servers: Servers) -> None:
    assert not (servers.platform.state_dir / "trivium.db").exists()
    assert not (servers.platform.state_dir / "valkey").exists()
    assert len(servers.platform.infer("similar-tickets", entity_key="T-0001")["output"]["similar"]) == 5


def test_with_the_database_gone_inference_answers_and_nothing_is_lost(servers: Servers) -> None:
    platform = servers.platform
    before = platform.infer("ticket-triage", input={"text": "I want to change my PIN"})
    servers.postgres.kill()
    try:
        made = [
            platform.infer("ticket-triage", input={"text": f"My card payment was declined at shop {n}"})
            for n in range(10)
        ]
        assert not any(answer["degraded"] for answer in made)
        began = time.monotonic()
        similar = platform.infer("similar-tickets", entity_key="T-0001")
        assert time.monotonic() - began < 0.5 + 0.75
        assert similar["degraded"] is True
        assert similar["output"] == {"similar": []}
        event = {"inference_id": made[0]["inference_id"], "kind": "thumbs_up"}
        kept = platform.call("/v1/feedback", event, headers={"Idempotency-Key": str(uuid.uuid4())})
        assert (kept.status, kept.body["stored"]) == (201, "journal")
        unknown = platform.call("/v1/features", key="trv_unknown")
        assert (unknown.status, unknown.body["code"]) == (503, "unavailable")
        assert "retry-after" in unknown.headers
        assert platform.call("/health/ready", key=None).status == 200
    finally:
        servers.postgres.start_again()
    with platform.without("gateway"):
        pass  # a new process has nothing in memory: what it finds is in the database
    until = time.monotonic() + 30
    for answer in [before, *made]:
        path = f"/v1/inferences/{answer['inference_id']}"
        while platform.call(path).body != answer:
            assert time.monotonic() < until, platform.shown()
            time.sleep(0.1)


def test_a_lost_valkey_stops_no_answer_and_the_worker_finds_it_again(servers: Servers) -> None:
    platform = servers.platform
    servers.valkey.kill()
    try:
        assert platform.infer("ticket-triage", input={"text": "How do I change my PIN?"})["degraded"] is False
        until = time.monotonic() + 15
        while platform.call("/health/ready", service="worker", key=None).status == 200:
            assert time.monotonic() < until, platform.shown()
            time.sleep(0.1)
    finally:
        servers.valkey.start()
    until = time.monotonic() + 30
    while platform.call("/health/ready", service="worker", key=None).status != 200:
        assert time.monotonic() < until, platform.shown()
        time.sleep(0.1)
