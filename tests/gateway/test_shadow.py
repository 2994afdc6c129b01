"""Candidates beside the served variant: asked afterwards, unseen, on their own budget."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select

from support.broken_provider import BrokenProvider, Call
from support.chat_gateway import FEATURE, ChatGateway, chat_gateway
from support.valkey import Valkey
from trivium.store.shadows import ShadowRepository
from trivium.store.tables import shadow_answer

PRICE = {"input_usd": 1_000.0, "output_usd": 10_000.0}
COST = (11 * 1_000 + 9 * 10_000) / 1e6
SHADOWED = FEATURE.replace(
    "serve: llm-v1",
    "  llm-v2:\n"
    "    {pattern: api, prompt: prompt.md, models: [route/candidate], retries: 0, max_output_tokens: 9}\n"
    "serve: llm-v1\nshadow: {variant: llm-v2, share: 1.0, monthly_usd: 1000, at_once: 2}",
)


async def _served(call: Call) -> None:
    await call.completion('{"label": "greeting"}')


async def _other(call: Call) -> None:
    await call.completion('{"label": "other"}')


async def _hangs(call: Call) -> None:
    await call.left()


async def _breaks(call: Call) -> None:
    await call.error(500, "no")


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[BrokenProvider]:
    async with BrokenProvider(
        {"label": _served, "same": _served, "other": _other, "hangs": _hangs, "breaks": _breaks}
    ) as provider:
        yield provider


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


Start = Callable[..., Awaitable[ChatGateway]]


@pytest.fixture
async def start(provider: BrokenProvider, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway whose feature `echo` has a candidate of the given name in its shadow."""
    valkey.command("FLUSHALL")
    provider.asked.clear()
    opened = []

    async def begin(candidate: str, feature: str = SHADOWED) -> ChatGateway:
        routes = {
            "route/label": {"targets": [_target(provider, "label")]},
            "route/candidate": {"targets": [_target(provider, candidate)]},
        }
        context = chat_gateway(tmp_path, routes, redis_url=valkey.url, feature=feature)
        opened.append(context)
        return await context.__aenter__()

    yield begin
    for context in opened:
        await context.__aexit__(None, None, None)


def _target(provider: BrokenProvider, model: str) -> dict[str, Any]:
    return {"provider": "openai", "model": model, "base_url": provider.url, "price": PRICE}


async def _ask(gateway: ChatGateway, subject: str = "u-1") -> dict[str, Any]:
    body = {"input": {"text": "hello"}, "subject": {"id": subject}}
    async with gateway.session.post(f"{gateway.url}/v1/features/echo/infer", json=body) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def _rows(gateway: ChatGateway, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(5):
        while True:
            await gateway.state.recorder.flush()
            async with gateway.database.transaction() as connection:
                rows = (await connection.execute(select(shadow_answer))).mappings().all()
            if len(rows) >= count:
                return [dict(row) for row in rows]
            await asyncio.sleep(0.02)


def _counted(outcome: str) -> float:
    labels = {"feature": "echo", "variant": "llm-v2", "outcome": outcome}
    return REGISTRY.get_sample_value("trivium_shadow_answers_total", labels) or 0.0


@pytest.mark.parametrize(("candidate", "agrees"), [("same", True), ("other", False)])
async def test_a_candidate_answers_too_and_what_it_says_is_stored_beside_what_was_served(
    start: Start, candidate: str, agrees: bool
) -> None:
    gateway = await start(candidate)
    served = await _ask(gateway)
    assert served["output"] == {"label": "greeting"}
    (row,) = await _rows(gateway, 1)
    assert (row["inference_id"], row["served_variant"]) == (served["inference_id"], "llm-v1")
    assert (row["variant"], row["outcome"], row["agrees"]) == ("llm-v2", "ok", agrees)
    assert row["output"] == {"label": "greeting" if agrees else "other"}
    assert row["cost_usd"] == pytest.approx(COST)
    (tried,) = await gateway.attempts(row["id"])
    assert (tried["feature"], tried["variant"], tried["key_id"]) == ("shadow/echo", "llm-v2", None)
    assert [one["cost_usd"] for one in await gateway.attempts(served["inference_id"])] == [
        pytest.approx(COST)
    ]

    found = await ShadowRepository(gateway.database).agreement("echo", "llm-v2", 0)
    assert [(a.asked, a.failed, a.agreed and a.agreed.value) for a in found] == [(1, 0, float(agrees))]
    differing = await ShadowRepository(gateway.database).disagreements("echo", "llm-v2", 0, 10)
    assert [(d["served"], d["candidate"]) for d in differing] == (
        [] if agrees else [({"label": "greeting"}, {"label": "other"})]
    )


async def test_a_candidate_that_hangs_delays_nobody_and_no_more_run_than_may(
    start: Start, provider: BrokenProvider
) -> None:
    gateway = await start("hangs")
    skipped = _counted("skipped")
    for number in range(5):
        before = time.monotonic()
        await _ask(gateway, f"u-{number}")
        assert time.monotonic() - before < 2.5  # the candidate holds on for 3 s
    assert _counted("skipped") - skipped == 3
    async with asyncio.timeout(5):
        while len(provider.of("hangs")) < 2:
            await asyncio.sleep(0.01)
    assert len(provider.of("hangs")) == 2


async def test_a_candidate_that_fails_is_no_failure_of_the_feature(start: Start) -> None:
    gateway = await start("breaks")
    for number in range(1, 5):
        assert not (await _ask(gateway))["degraded"]
        rows = await _rows(gateway, number)
    assert {row["agrees"] for row in rows} == {None}
    assert {row["output"] for row in rows} == {None}
    assert rows[0]["outcome"] == "provider_error"
    found = await ShadowRepository(gateway.database).agreement("echo", "llm-v2", 0)
    assert [(a.asked, a.failed, a.agreed) for a in found] == [(4, 4, None)]


async def test_a_shadow_stops_at_its_own_budget_and_the_served_variant_does_not(
    start: Start, provider: BrokenProvider
) -> None:
    tight = SHADOWED.replace("share: 1.0, monthly_usd: 1000", f"share: 1.0, monthly_usd: {2.5 * COST}")
    gateway = await start("same", tight)
    for number in range(1, 5):
        assert not (await _ask(gateway))["degraded"]
        await _rows(gateway, number)
    outcomes = [row["outcome"] for row in await _rows(gateway, 4)]
    assert sorted(outcomes) == ["budget_exhausted", "budget_exhausted", "ok", "ok"]
    assert len(provider.of("same")) == 2
    assert len(provider.of("label")) == 4


async def test_those_who_do_not_get_the_ai_cast_no_shadow(start: Start, provider: BrokenProvider) -> None:
    gateway = await start("same", SHADOWED.replace("rollout: {flag: echo}", "rollout: {flag: nobodys}"))
    assert (await _ask(gateway))["arm"] == "control"
    assert provider.of("same") == []
