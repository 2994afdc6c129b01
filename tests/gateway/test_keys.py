"""What a key may do at every door of the gateway, and what guessing leads to."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY

from gateway.app import _note_last_use, create_app
from support.chat_gateway import chat_gateway
from support.vendor import Vendor
from trivium.guesses import Guesses, Recent
from trivium.store.key_cache import KeyCache
from trivium.store.keys import SCOPES, KeyRepository

OPEN = {"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"}
ABSENT = "01a20541-f49e-725e-9873-7cfc62ac2522"
INFER = {"input": {"text": "hi"}, "subject": {"id": "u"}, "entity_key": "M-1"}
MESSAGES = [{"role": "user", "content": '{"text": "hi"}'}]

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""Of what is no matter of the store."""


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    """A provider, for the routes."""
    with Vendor() as running:
        yield running


async def _key(gateway: Any, *scopes: str, **more: Any) -> dict[str, str]:
    """The header of a new key."""
    _, secret = await gateway.state.keys._repository.create("limited", list(scopes or SCOPES), **more)
    return {"Authorization": f"Bearer {secret}"}


def _problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def _doors() -> list[tuple[str, str]]:
    """Every endpoint that names a feature in its path."""
    found = []
    for route in create_app().routes:
        for one in getattr(getattr(route, "original_router", None), "routes", [route]):
            if isinstance(one, APIRoute) and "{feature}" in one.path:
                found += [(method, one.path) for method in one.methods or ()]
    return sorted(set(found))


@ON_SQLITE
async def test_a_limited_key_is_refused_at_every_door_whether_or_not_there_is_such_a_feature(
    gateway: Any,
) -> None:
    headers = await _key(gateway, features=["intents"])
    doors = _doors()
    assert len(doors) >= 8
    for method, path in doors:
        for feature in ("asked-at-once", "no-such-thing"):
            filled = re.sub(r"{entity_key:?\w*}", "M-1", path).replace("{feature}", feature)
            answer = await gateway.client.request(method, filled, headers=headers, json=INFER)
            assert feature in _problem(answer, 403), (method, path)
            assert "limited to intents" in answer.json()["detail"]
            assert answer.json()["code"] == "forbidden"


@ON_SQLITE
async def test_a_limited_key_has_its_own_features_and_sees_no_other(gateway: Any, worker: Any) -> None:
    headers = await _key(gateway, features=["intents"])
    await worker.compute("M-1")
    made = await gateway.client.post("/v1/features/intents/infer", headers=headers, json=INFER)
    assert made.status_code == 200
    ghost = await _key(gateway, features=["ghost"])
    for answer in (
        await gateway.client.get("/v1/features/ghost", headers=ghost),
        await gateway.client.post(
            "/v1/chat/completions", headers=ghost, json={"model": "feature/ghost", "messages": MESSAGES}
        ),
    ):
        assert answer.status_code == 404 and "intents" not in answer.text
    listed = (await gateway.client.get("/v1/features", headers=headers)).json()
    assert [one["feature"] for one in listed] == ["intents"]
    models = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
    assert [one["id"] for one in models] == ["feature/intents"]
    back = await gateway.client.get(f"/v1/inferences/{made.json()['inference_id']}", headers=headers)
    assert back.json()["output"] == made.json()["output"]


@ON_SQLITE
async def test_a_limited_key_reads_and_judges_no_other_features_answers(gateway: Any) -> None:
    other = (await gateway.infer("M-1", "hi", feature="asked-at-once")).json()["inference_id"]
    own = (await gateway.infer("M-1", "hi")).json()["inference_id"]
    headers = await _key(gateway, features=["intents"])
    for path in (f"/v1/inferences/{other}", f"/v1/inferences/{other}/events"):
        assert "asked-at-once" in _problem(await gateway.client.get(path, headers=headers), 403)
    for kind in ("accepted", "shown"):
        event = {"inference_id": other, "kind": kind}
        answer = await gateway.client.post("/v1/feedback", headers=headers, json=event)
        assert "asked-at-once" in _problem(answer, 403)
        answer = await gateway.client.post(
            "/v1/feedback", headers=headers, json={**event, "inference_id": own}
        )
        assert answer.status_code == 201
    unknown = {"inference_id": ABSENT, "kind": "accepted"}
    answer = await gateway.client.post("/v1/feedback", headers=headers, json=unknown)
    assert "its feature is not known" in _problem(answer, 409)
    assert answer.headers["retry-after"]
    assert (await gateway.client.post("/v1/feedback", json=unknown)).status_code == 201


@ON_SQLITE
async def test_a_limited_key_watches_and_ends_no_other_features_run(gateway: Any) -> None:
    all_of_them = await _key(gateway)
    started = await gateway.client.post("/v1/features/intents/precompute", headers=all_of_them, json={})
    run = started.json()["run_id"]
    headers = await _key(gateway, features=["asked-at-once"])
    for method, path in (("GET", ""), ("GET", "/dead"), ("POST", "/cancel"), ("POST", "/replay")):
        answer = await gateway.client.request(method, f"/v1/precompute/{run}{path}", headers=headers)
        assert "'intents'" in _problem(answer, 403), path
    watched = await gateway.client.get(f"/v1/precompute/{run}", headers=all_of_them)
    assert watched.json()["state"] != "cancelled"


async def test_a_limited_key_calls_no_route_but_those_that_it_names(tmp_path: Any, vendor: Any) -> None:
    target = {"provider": "openai", "base_url": vendor.openai_url, "model": "m"}
    routes = {"chat": {"targets": [target]}, "other": {"targets": [target], "match": "gpt-*"}}
    async with chat_gateway(tmp_path, routes, openai_api_key=vendor.key) as gateway:
        only_feature = await _key(gateway, features=["echo"])
        with_route = await _key(gateway, features=["echo", "route/chat", "route/gone"])
        for model, headers, status in (
            ("feature/echo", only_feature, 200),
            ("feature/ghost", only_feature, 403),
            ("route/chat", only_feature, 403),
            ("route/ghost", only_feature, 403),
            ("gpt-5", only_feature, 403),
            ("route/chat", with_route, 200),
            ("gpt-5", with_route, 403),
            ("route/gone", with_route, 404),
        ):
            found, _, body = await gateway.said(model, headers=headers)
            assert found == status, (model, body)
            assert found == 200 or "route/other" not in str(body) or model == "gpt-5"
            if status == 403:
                assert body["error"]["trivium_code"] == "forbidden"
                name = "route/other" if model == "gpt-5" else model.removeprefix("feature/")
                assert name in body["error"]["message"]
        async with gateway.session.get(f"{gateway.url}/v1/models", headers=with_route) as answer:
            assert {one["id"] for one in (await answer.json())["data"]} == {"route/chat", "feature/echo"}
        for route, status in (("chat", 200), ("other", 403), ("gpt-5", 403), ("gone", 404)):
            url = f"{gateway.url}/v1/routes/{route}/costs"
            async with gateway.session.get(url, headers=with_route) as answer:
                assert answer.status == status


@ON_SQLITE
async def test_no_scope_holds_another(gateway: Any) -> None:
    opened = {
        "infer": [("POST", "/v1/features/asked-at-once/infer"), ("GET", "/v1/features")],
        "feedback": [("POST", "/v1/feedback")],
        "precompute": [("POST", "/v1/features/intents/precompute")],
        "admin": [("GET", "/v1/audit"), ("GET", "/metrics"), ("GET", "/v1/features/intents/status")],
    }
    bodies = {"/v1/feedback": {"inference_id": ABSENT, "kind": "accepted"}, "/precompute": {}}
    shared = {("GET", "/v1/features"), ("GET", "/v1/features/intents/status")}
    for scope in SCOPES:
        headers = await _key(gateway, scope)
        for needed, doors in opened.items():
            for method, path in doors:
                body = next((given for end, given in bodies.items() if path.endswith(end)), INFER)
                answer = await gateway.client.request(method, path, headers=headers, json=body)
                may = scope == needed or ((method, path) in shared and scope in ("infer", "admin"))
                assert (answer.status_code < 300) is may, (scope, method, path, answer.text)
                assert may or "scope" in _problem(answer, 403)
        chat = {"model": "feature/asked-at-once", "messages": MESSAGES}
        answered = await gateway.client.post("/v1/chat/completions", headers=headers, json=chat)
        assert answered.status_code == (200 if scope == "infer" else 403)


def _refused(reason: str) -> float:
    return REGISTRY.get_sample_value("trivium_auth_refused_total", {"reason": reason}) or 0.0


@ON_SQLITE
async def test_guessing_ends_in_429_before_the_database_and_a_known_key_passes(gateway: Any) -> None:
    headers = dict(gateway.client.headers)
    await gateway.state.keys.refresh()
    before = {reason: _refused(reason) for reason in ("unknown", "guessing", "missing", "forbidden")}
    for attempt in range(20):
        wrong = {"Authorization": f"Bearer trv_wrong-{attempt}"}
        assert (await gateway.client.get("/v1/features", headers=wrong)).status_code == 401
    looked_up = len(gateway.state.keys._misses)
    for path in ("/v1/features", "/v1/models", "/v1/audit", "/metrics"):
        refused = await gateway.client.get(path, headers={"Authorization": "Bearer trv_one-more"})
        assert refused.status_code == 429, path
        assert 0 < int(refused.headers["retry-after"]) <= 60
    assert len(gateway.state.keys._misses) == looked_up
    # A neighbour behind the same address goes on, and one without a key hears what is missing.
    assert (await gateway.client.get("/v1/features", headers=headers)).status_code == 200
    del gateway.client.headers["Authorization"]
    assert (await gateway.client.get("/v1/features")).status_code == 401
    # A new key waits for the next refresh, no longer.
    fresh = await _key(gateway, "feedback")
    assert (await gateway.client.get("/v1/features", headers=fresh)).status_code == 429
    await gateway.state.keys.refresh()
    assert (await gateway.client.get("/v1/features", headers=fresh)).status_code == 403
    counted = {reason: _refused(reason) - was for reason, was in before.items()}
    assert counted == {"unknown": 20, "guessing": 5, "missing": 1, "forbidden": 1}


@ON_SQLITE
async def test_another_address_may_still_ask(gateway: Any) -> None:
    keys: KeyCache = gateway.state.keys
    for attempt in range(25):
        for address in ("10.0.0.1", "2001:db8::1"):
            with pytest.raises(Exception, match=r"unknown or revoked|wrong API keys"):
                await keys.authenticate(f"wrong {attempt}", address)
    for address, told in (
        ("10.0.0.1", "20 wrong API keys"),
        ("::ffff:10.0.0.1", "20 wrong API keys"),
        ("10.0.0.2", "unknown or revoked"),
        ("2001:db8::2", "20 wrong API keys"),
        ("2001:db8:0:1::2", "unknown or revoked"),
    ):
        with pytest.raises(Exception, match=told):
            await keys.authenticate("wrong again", address)


def test_what_is_remembered_of_addresses_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = Guesses(2, most_addresses=100)
    for number in range(1_000):
        guesses.count(f"10.0.{number // 250}.{number % 250}")
    assert len(guesses) == 100
    recent = Recent(2)
    for _ in range(5):
        recent.count("a")
    assert 59 < recent.full_s("a") <= 60
    assert recent.full_s("b") == 0
    now = time.monotonic()
    monkeypatch.setattr("trivium.guesses.time.monotonic", lambda: now + 61)
    assert recent.full_s("a") == 0
    none = Recent(0)
    none.count("a")
    assert none.full_s("a") == 0 and len(none) == 0


async def test_a_rotation_refuses_nobody_before_the_overlap_ends(start_gateway: Any, database: Any) -> None:
    """Old and new key, at two gateways, under traffic all the time."""
    gateways = [await start_gateway(number) for number in (1, 2)]
    repository = KeyRepository(database)
    key, old = await repository.create("app", ["infer"], features=["asked-at-once"])
    seen: list[tuple[str, float, int]] = []
    secrets = {"old": old}
    over = asyncio.Event()

    async def ask(gateway: Any) -> None:
        while not over.is_set():
            for name, secret in list(secrets.items()):
                began = time.time()
                headers = {"Authorization": f"Bearer {secret}"}
                answer = await gateway.client.get("/v1/features/asked-at-once", headers=headers)
                seen.append((name, began, answer.status_code))
            await asyncio.sleep(0.01)

    async def refresh() -> None:
        while not over.is_set():
            for gateway in gateways:
                await gateway.state.keys.refresh()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(one) for one in (*map(ask, gateways), refresh())]
    await asyncio.sleep(0.2)
    rotated = time.time()
    successor, secrets["new"], ends = await repository.rotate(key.own_id, 0.8)
    while not any(name == "old" and status == 401 for name, _, status in seen):
        assert time.time() < ends + 20
        await asyncio.sleep(0.05)
    over.set()
    await asyncio.gather(*tasks)
    assert ends >= rotated + 0.8
    assert successor.id == key.id
    assert {status for name, _, status in seen if name == "new"} == {200}
    # What was asked in time may have been looked at late, on a machine that has other things to do.
    refused = [began for name, began, status in seen if name == "old" and status != 200]
    assert min(refused) > ends - 0.3
    assert sum(name == "old" and began < ends for name, began, _ in seen) > 10


async def test_a_successor_reads_the_answers_and_repeats_the_feedback_of_its_line(
    gateway: Any, database: Any
) -> None:
    repository = KeyRepository(database)
    key, old = await repository.create("app", ["infer", "feedback"])
    headers = {"Authorization": f"Bearer {old}"}
    made = await gateway.client.post("/v1/features/asked-at-once/infer", headers=headers, json=INFER)
    event = {"inference_id": made.json()["inference_id"], "kind": "accepted"}
    once = {"Idempotency-Key": "event-1"}
    first = await gateway.client.post("/v1/feedback", headers=headers | once, json=event)
    _, new, _ = await repository.rotate(key.own_id)
    headers = {"Authorization": f"Bearer {new}"}
    back = await gateway.client.get(f"/v1/inferences/{event['inference_id']}", headers=headers)
    assert back.status_code == 200
    again = await gateway.client.post("/v1/feedback", headers=headers | once, json=event)
    assert json.loads(again.content)["feedback_id"] == first.json()["feedback_id"]


async def test_over_a_socket_guessing_is_refused_in_the_shape_of_each_door(tmp_path: Path) -> None:
    async with chat_gateway(tmp_path, {}, auth_guesses_per_minute=3) as gateway:
        body = {"model": "feature/echo", "messages": MESSAGES}
        for number, status in enumerate((401, 401, 401, 429, 429)):
            wrong = {"Authorization": f"Bearer trv_{number}", "X-Forwarded-For": f"10.0.0.{number}"}
            url = f"{gateway.url}/v1/chat/completions"
            async with gateway.session.post(url, json=body, headers=wrong) as answer:
                assert answer.status == status
                error = (await answer.json())["error"]
        assert (error["type"], error["trivium_code"]) == ("rate_limit_error", "too_many_guesses")
        assert int(answer.headers["Retry-After"]) > 0
        async with gateway.session.get(f"{gateway.url}/v1/features", headers=wrong) as answer:
            assert (answer.status, (await answer.json())["code"]) == (429, "too_many_guesses")
        await gateway.state.keys.refresh()
        assert (await gateway.said("feature/echo"))[0] == 200


async def test_last_use_is_written_when_a_gateway_stops(start_gateway: Any, database: Any) -> None:
    gateway = await start_gateway(3)
    await gateway.client.get("/v1/features")
    (row,) = await KeyRepository(database).list()
    assert row["last_used_at"] is None
    await _note_last_use(gateway.state.keys)
    (row,) = await KeyRepository(database).list()
    assert row["last_used_at"] == pytest.approx(time.time(), abs=60)
