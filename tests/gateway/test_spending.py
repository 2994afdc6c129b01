"""Budgets, limits, kept answers, payloads and streams of features, through the gateway's doors."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import select

from support.broken_provider import TEXT, BrokenProvider, Call, Fate
from support.chat_gateway import FEATURE, ChatGateway, chat_gateway
from support.valkey import Valkey
from trivium.store.keys import Allowance, KeyRepository
from trivium.store.tables import feedback

PRICE = {"input_usd": 1_000.0, "output_usd": 10_000.0}
COST = (11 * 1_000 + 9 * 10_000) / 1e6  # of every answer of the provider: 0.101 USD
NO_CACHE = {"Cache-Control": "no-cache"}


async def _label(call: Call) -> None:
    await call.completion('{"label": "greeting"}')


async def _mistaken(call: Call) -> None:
    """A wrong shape at first; put right when told so."""
    right = call.asked.body["messages"][-1]["content"].startswith("Your answer was not accepted")
    await call.completion('{"label": "right"}' if right else '{"lable": "wrong"}')


def _with(feature: str, **changes: str) -> str:
    for old, new in changes.items():
        feature = feature.replace(old, new)
    return feature


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[BrokenProvider]:
    fates: dict[str, Fate] = {"label": _label, "mistaken": _mistaken}
    async with BrokenProvider(fates) as provider:
        yield provider


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def gateway(provider: BrokenProvider, valkey: Valkey, tmp_path: Path) -> AsyncIterator[ChatGateway]:
    valkey.command("FLUSHALL")

    def target(model: str, **more: Any) -> dict[str, Any]:
        return {"provider": "openai", "model": model, "base_url": provider.url, **more}

    routes = {
        "route/label": {"targets": [target("label", price=PRICE)]},
        "route/mistaken": {"targets": [target("mistaken")]},
        "route/budget": {"targets": [target("paid", price=PRICE)], "monthly_usd": 0.5},
        "route/spills": {"targets": [target("paid", price=PRICE), target("free")], "monthly_usd": 0.0001},
        "route/kept": {"targets": [target("kept", price=PRICE)], "cache_s": 60},
        "route/full": {"targets": [target("free")], "payload": "full"},
    }
    features = tmp_path / "features"
    for name, feature in {
        "kept": _with(FEATURE, **{"retries: 0": "retries: 0, cache_s: 60"}),
        "broke": _with(FEATURE, **{"monthly_usd: 1000": "monthly_usd: 0.000001"}),
        "mends": _with(FEATURE, **{"route/label": "route/mistaken"}),
        "private": FEATURE.replace(
            "properties: {text: {type: string}}", "properties: {text: {x-sensitive: true}}"
        ),
        "silent": FEATURE.replace("budget:", "recording: {payload: hash}\nbudget:"),
    }.items():
        (features / name).mkdir(parents=True)
        (features / name / "feature.yaml").write_text(feature.replace("feature: echo", f"feature: {name}"))
        (features / name / "golden.jsonl").write_text("{}\n")
        (features / name / "prompt.md").write_text("## user\n{{ text }}\n")
    async with chat_gateway(tmp_path, routes, redis_url=valkey.url) as gateway:
        yield gateway


async def _infer(gateway: ChatGateway, feature: str, **more: Any) -> tuple[int, dict[str, Any]]:
    headers = more.pop("headers", {})
    body = {"input": {"text": "hello"}, "subject": {"id": "u-1"}, **more}
    url = f"{gateway.url}/v1/features/{feature}/infer"
    async with gateway.session.post(url, json=body, headers=headers) as response:
        return response.status, await response.json()


async def _used(valkey: Valkey, name: str) -> dict[str, float]:
    client: Any = Redis.from_url(valkey.url)
    async with asyncio.timeout(5):
        while float(await client.hget(f"trivium:limit:{{{name}}}:usd", "held") or 0) > 1e-9:
            await asyncio.sleep(0.02)
    found = await client.hgetall(f"trivium:limit:{{{name}}}:usd")
    await client.aclose()
    return {key.decode(): float(value) for key, value in found.items() if key in (b"spent", b"held", b"base")}


async def test_a_routes_budget_is_spent_to_its_end_and_not_beyond(
    gateway: ChatGateway, valkey: Valkey
) -> None:
    answers = []
    for _ in range(8):
        async with gateway.ask("route/budget", max_tokens=9) as response:
            answers.append((response.status, await response.json(), response.headers.get("retry-after")))
    served = [status for status, *_ in answers if status == 200]
    assert len(served) == 4  # 4 x 0.101 fits 0.5, five times does not
    status, body, retry_after = answers[-1]
    assert (status, body["error"]["code"], body["error"]["type"]) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert "0.404 of 0.5 usd a month" in body["error"]["message"]
    assert int(retry_after or 0) > 0
    assert await _used(valkey, "feature:route/budget") == pytest.approx(
        {"base": 0, "spent": 4 * COST, "held": 0}
    )


async def test_at_once_no_more_are_served_than_the_budget_has(gateway: ChatGateway) -> None:
    answers = await asyncio.gather(*(gateway.said("route/budget", max_tokens=9) for _ in range(20)))
    assert sorted(status for status, *_ in answers)[:5] == [200, 200, 200, 200, 429]


async def test_what_a_budget_no_longer_pays_is_answered_by_a_target_that_costs_nothing(
    gateway: ChatGateway, provider: BrokenProvider
) -> None:
    known = len(provider.of("paid"))
    status, _, body = await gateway.said("route/spills")
    assert (status, body["model"]) == (200, "free")
    assert len(provider.of("paid")) == known


async def test_a_feature_beyond_its_budget_answers_by_its_next_step(gateway: ChatGateway) -> None:
    status, made = await _infer(gateway, "broke")
    assert (status, made["output"], made["degraded"]) == (200, {"label": "nothing"}, True)
    assert made["fallback_reason"] == "budget_exhausted"


async def test_a_keys_requests_and_tokens_a_minute_are_bounded(gateway: ChatGateway) -> None:
    keys = KeyRepository(gateway.database)
    _, few = await keys.create("few", ["infer"], allowance=Allowance(requests_per_minute=2))
    _, short = await keys.create("short", ["infer"], allowance=Allowance(tokens_per_minute=30))
    if time.time() % 60 > 55:
        await asyncio.sleep(6)  # the limits are those of one minute
    headers = {"Authorization": f"Bearer {few}"}
    statuses = [(await gateway.said("route/full", headers=headers))[0] for _ in range(3)]
    assert statuses == [200, 200, 429]
    status, problem = await _infer(gateway, "echo", headers=headers)
    assert (status, problem["code"]) == (429, "limit_reached")
    headers = {"Authorization": f"Bearer {short}"}
    assert (await gateway.said("route/full", headers=headers, max_tokens=5))[0] == 200
    status, _, body = await gateway.said("route/full", headers=headers, max_tokens=50)
    assert (status, body["error"]["trivium_code"]) == (429, "budget_exhausted")
    assert "tokens a minute" in body["error"]["message"]


async def test_a_rotation_gives_no_second_allowance(gateway: ChatGateway) -> None:
    keys = KeyRepository(gateway.database)
    key, old = await keys.create("few", ["infer"], allowance=Allowance(requests_per_minute=2))
    _, new, _ = await keys.rotate(key.own_id)
    if time.time() % 60 > 55:
        await asyncio.sleep(6)  # the limits are those of one minute
    asked = [{"Authorization": f"Bearer {secret}"} for secret in (old, new, old, new)]
    statuses = [(await gateway.said("route/full", headers=headers))[0] for headers in asked]
    assert statuses == [200, 200, 429, 429]


async def test_the_same_question_of_the_same_key_is_answered_once(
    gateway: ChatGateway, provider: BrokenProvider
) -> None:
    def asked() -> int:
        return len(provider.of("kept"))

    known = asked()
    async with gateway.ask("route/kept") as first:
        assert first.headers["x-trivium-cache"] == "miss"
        body = await first.json()
    await asyncio.sleep(0.1)
    async with gateway.ask("route/kept") as again:
        assert (again.headers["x-trivium-cache"], again.headers["x-trivium-cost-usd"]) == ("hit", "0")
        kept = await again.json()
    assert kept["choices"] == body["choices"]
    assert kept["id"] != body["id"]
    assert asked() == known + 1
    async with gateway.ask("route/kept", headers=NO_CACHE) as fresh:
        assert fresh.headers["x-trivium-cache"] == "miss"
    async with gateway.ask("route/kept", "another question") as other:
        assert other.headers["x-trivium-cache"] == "miss"
    _, secret = await KeyRepository(gateway.database).create("other", ["infer"])
    async with gateway.ask("route/kept", headers={"Authorization": f"Bearer {secret}"}) as stranger:
        assert stranger.headers["x-trivium-cache"] == "miss"
    rows = [row for row in await gateway.inferences() if row["feature"] == "route/kept"]
    assert [row["cached"] for row in rows] == [False, True, False, False, False]


async def test_a_features_kept_answer_is_recorded_as_such_and_degraded_ones_are_not_kept(
    gateway: ChatGateway, provider: BrokenProvider
) -> None:
    known = len(provider.of("label"))
    _, first = await _infer(gateway, "kept")
    await asyncio.sleep(0.1)
    _, again = await _infer(gateway, "kept")
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["output"] == first["output"]
    assert (again["cost_usd"], again["served_by"]["variant"]) == (0, "llm-v1")
    _, fresh = await _infer(gateway, "kept", headers=NO_CACHE)
    assert not fresh["cached"]
    assert len(provider.of("label")) == known + 2
    attempts = await gateway.attempts(again["inference_id"])
    assert [(a["target"], a["outcome"], a["cost_usd"]) for a in attempts] == [("cache", "ok", 0)]
    provider.fates["label"] = lambda call: call.error(500, "down")
    try:
        for _ in range(2):
            _, degraded = await _infer(gateway, "kept", input={"text": "new"})
            assert (degraded["degraded"], degraded["cached"]) == (True, False)
    finally:
        provider.fates["label"] = _label


async def test_an_answer_of_the_wrong_shape_is_put_right_by_one_more_call(gateway: ChatGateway) -> None:
    _, made = await _infer(gateway, "mends")
    assert (made["output"], made["degraded"]) == ({"label": "right"}, False)
    attempts = await gateway.attempts(made["inference_id"])
    assert [a["outcome"] for a in attempts] == ["schema_violation", "ok"]
    assert made["usage"]["input"] == 22


async def test_what_is_sensitive_or_not_to_be_kept_is_in_no_row(gateway: ChatGateway) -> None:
    made = {name: (await _infer(gateway, name))[1] for name in ("echo", "private", "silent")}
    rows = {row["feature"]: row for row in await gateway.inferences()}
    assert rows["echo"]["input"] == {"text": "hello"}
    assert rows["private"]["input"] == {"text": "[redacted]"}
    assert rows["private"]["output"] == {"label": "greeting"}
    assert (rows["silent"]["input"], rows["silent"]["output"]) == (None, None)
    assert rows["silent"]["input_hash"]
    url = f"{gateway.url}/v1/inferences/{made['silent']['inference_id']}"
    async with gateway.session.get(url) as response:
        assert (await response.json())["output"] == {
            "label": "greeting"
        }  # its caller may read it for a while
    await gateway.said("route/label", text="a secret")
    row = next(row for row in await gateway.inferences() if row["feature"] == "route/label")
    assert "secret" not in json.dumps(row)


async def test_of_a_right_output_as_much_is_kept_as_of_outputs(gateway: ChatGateway) -> None:
    for name in ("echo", "silent"):
        _, made = await _infer(gateway, name)
        event = {"inference_id": made["inference_id"], "kind": "correction", "value": {"label": "right"}}
        headers = {"Idempotency-Key": name}
        for _ in range(2):  # a repeat is the same event still
            url = f"{gateway.url}/v1/feedback"
            async with gateway.session.post(url, json=event, headers=headers) as response:
                assert response.status == 201
    async with gateway.database.transaction() as connection:
        stored = select(feedback.c.idempotency_key, feedback.c.value, feedback.c.edit_distance)
        rows = {row[0]: row[1:] for row in await connection.execute(stored)}
    assert rows["echo"][0] == {"label": "right"}
    assert rows["silent"][0] is None
    assert rows["silent"][1] == rows["echo"][1] > 0  # how far it was is known, and tells nothing


async def test_a_feature_streams_what_the_model_says_and_then_its_answer(gateway: ChatGateway) -> None:
    body = {"input": {"text": "hello"}, "subject": {"id": "u-1"}, "mode": "stream"}
    async with gateway.session.post(f"{gateway.url}/v1/features/echo/infer", json=body) as response:
        assert response.content_type == "text/event-stream"
        raw = (await response.read()).decode()
    blocks = [block.split("\n") for block in raw.strip().split("\n\n")]
    events = [(name.partition(": ")[2], data.partition(": ")[2]) for name, data in blocks]
    assert (events[0][0], events[-1][0]) == ("begin", "done")
    text = "".join(json.loads(data)["text"] for name, data in events if name == "delta")
    assert json.loads(text) == {"label": "greeting"}
    answer = json.loads(events[-1][1])
    assert (answer["output"], answer["degraded"]) == ({"label": "greeting"}, False)
    wrong = {**body, "input": {}}
    async with gateway.session.post(f"{gateway.url}/v1/features/echo/infer", json=wrong) as response:
        assert response.status == 422


async def test_a_stream_of_a_feature_whose_model_is_away_ends_in_the_non_ai_version(
    gateway: ChatGateway, provider: BrokenProvider
) -> None:
    provider.fates["label"] = lambda call: call.error(500, "down")
    try:
        body = {"input": {"text": "hello"}, "subject": {"id": "u-1"}, "mode": "stream"}
        async with gateway.session.post(f"{gateway.url}/v1/features/echo/infer", json=body) as response:
            raw = (await response.read()).decode()
    finally:
        provider.fates["label"] = _label
    answer = json.loads(raw.strip().split("\n\n")[-1].split("data: ")[1])
    assert (answer["output"], answer["fallback_reason"]) == ({"label": "nothing"}, "provider_error")


async def test_costs_are_told_over_http(gateway: ChatGateway) -> None:
    for _ in range(3):
        await _infer(gateway, "echo")
        await gateway.said("route/label")
    await gateway.inferences()
    async with gateway.session.get(f"{gateway.url}/v1/features/echo/costs") as response:
        echo = await response.json()
    assert (echo["treated"], echo["eligible"], echo["budget_usd"]) == (3, 3, 1000)
    assert echo["per_request"]["usd"] == pytest.approx(COST)
    assert [one["share"] for one in echo["projected"]] == [0.05, 0.25, 0.5, 1.0]
    assert echo["by_target"][0]["cost_usd"] == pytest.approx(3 * COST)
    async with gateway.session.get(f"{gateway.url}/v1/routes/label/costs") as response:
        route = await response.json()
    assert (route["name"], route["month_usd"]) == ("route/label", pytest.approx(3 * COST))
    async with gateway.session.get(f"{gateway.url}/v1/features/absent/costs") as response:
        assert response.status == 404


async def test_without_redis_requests_are_answered_and_bounded(gateway: ChatGateway, valkey: Valkey) -> None:
    valkey.kill()
    try:
        statuses = [(await gateway.said("route/budget", max_tokens=9))[0] for _ in range(5)]
        assert statuses[0] == 200
        assert statuses[-1] == 429  # a tenth of 0.5 is less than two answers
        async with gateway.ask("route/kept") as response:
            assert (response.status, (await response.json())["choices"][0]["message"]["content"]) == (
                200,
                TEXT,
            )
    finally:
        valkey.start()


async def test_a_weighted_routes_targets_share_the_requests_of_a_feature_too(
    gateway: ChatGateway, provider: BrokenProvider
) -> None:
    both = [
        {"provider": "openai", "model": f"w{n}", "base_url": provider.url, "weight": weight}
        for n, weight in enumerate((3, 1))
    ]
    for one in both:
        provider.fates[str(one["model"])] = _label
    kept = {"route/mistaken": {"targets": [{"provider": "local", "model": "m"}]}}
    gateway.write({**kept, "route/label": {"targets": both, "order": "weighted"}})
    async with asyncio.timeout(5):
        while not provider.of("w0"):
            await _infer(gateway, "echo")
            await asyncio.sleep(0.1)
    provider.asked.clear()
    for _ in range(60):
        await _infer(gateway, "echo")
    shares = [len(provider.of(f"w{n}")) / 60 for n in range(2)]
    assert 0.5 < shares[0] < 0.97
    assert shares[0] + shares[1] == 1
