"""A provider that breaks in every way that is known, and a gateway that answers all the same.

Every fault is made at the socket. The table of outcomes is docs/reliability.md.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from support import fates
from support.broken_provider import TEXT, WORDS, BrokenProvider, Call, Fate
from support.chat_gateway import ChatGateway, chat_gateway
from support.edge import free_port

TIMES = {"connect_s": 1.0, "first_token_s": 0.5, "idle_s": 0.4, "total_s": 1.0}
OTHER = "Something else altogether."
MORE_THAN_ALL_S = 8.0


@dataclass
class Bench:
    """One gateway for all tests; each has models of its own, so that no breaker is shared."""

    gateway: ChatGateway
    provider: BrokenProvider
    numbers: Iterator[int]

    def named(self, prefix: str, fate: Fate) -> str:
        """The name of a model with a fate, for the routes that match the prefix."""
        name = f"{prefix}-{next(self.numbers)}"
        self.provider.fates[name] = fate
        return name


def _routes(url: str) -> dict[str, Any]:
    def target(model: str | None = None, **more: Any) -> dict[str, Any]:
        named = {"model": model} if model else {}
        return {"provider": "openai", "base_url": url, "timeouts": TIMES, **named, **more}

    closed = f"http://127.0.0.1:{free_port()}/v1"
    return {
        "route/alone": {"match": "alone-*", "deadline_ms": 5000, "targets": [target()]},
        "route/two": {"match": "two-*", "targets": [target(), target("good")]},
        "route/other": {"match": "other-*", "targets": [target(), target("other")]},
        "route/buffer": {
            "match": "buffer-*",
            "on_broken_stream": "buffer",
            "targets": [target(), target("other")],
        },
        "route/error": {
            "match": "error-*",
            "on_broken_stream": "error",
            "targets": [target(), target("good")],
        },
        "route/prefix": {
            "match": "prefix-*",
            "targets": [target(retries=0), target("continues", continues_prefix=True)],
        },
        "route/refused": {"targets": [target("x", base_url=closed), target("good")]},
        "route/larger": {
            "match": "larger-*",
            "targets": [
                target(context_tokens=8_000),
                target("other", context_tokens=4_000),
                target("good", context_tokens=100_000),
            ],
        },
        "route/capped": {"match": "capped-*", "targets": [target(max_concurrency=2, max_wait_s=0.1)]},
        "route/patient": {"match": "patient-*", "deadline_ms": 5000, "targets": [target()]},
    }


async def _continues(call: Call) -> None:
    last = call.asked.body["messages"][-1]
    begun = last["content"] if last["role"] == "assistant" else ""
    await call.completion(TEXT.removeprefix(begun))


@pytest.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("provider")
    provider = BrokenProvider({"other": fates.saying(OTHER), "continues": _continues})
    async with provider, chat_gateway(folder, _routes(provider.url)) as gateway:
        yield Bench(gateway, provider, count())


@pytest.mark.parametrize("fate", fates.ANY.values(), ids=fates.ANY)
async def test_a_buffered_answer_comes_from_the_next_target(bench: Bench, fate: Fate) -> None:
    model = bench.named("two", fate)
    async with asyncio.timeout(MORE_THAN_ALL_S), bench.gateway.ask(model) as response:
        body = await response.json()
    assert (response.status, body["choices"][0]["message"]["content"]) == (200, TEXT)
    assert body["model"] == "good"
    assert response.headers["x-trivium-degraded"] == "true"
    assert 1 <= len(bench.provider.of(model)) <= 2


@pytest.mark.parametrize(
    "fate",
    [*fates.ANY.values(), *fates.BEFORE_TOKENS.values()],
    ids=[*fates.ANY, *fates.BEFORE_TOKENS],
)
async def test_a_stream_that_breaks_before_its_first_token_comes_from_the_next_target(
    bench: Bench, fate: Fate
) -> None:
    model = bench.named("other", fate)
    async with asyncio.timeout(MORE_THAN_ALL_S):
        stream = await bench.gateway.streamed(model)
    assert (stream.status, stream.text, stream.complete) == (200, OTHER, True)
    assert 1 <= len(bench.provider.of(model)) <= 2


@pytest.mark.parametrize("fate", fates.IN_STREAM.values(), ids=fates.IN_STREAM)
async def test_a_stream_that_breaks_goes_on_from_the_next_target_without_a_seam(
    bench: Bench, fate: Fate
) -> None:
    stream = await bench.gateway.streamed(bench.named("two", fate))
    assert (stream.text, stream.complete) == (TEXT, True)
    roles = [
        e["choices"][0]["delta"].get("role") for e in stream.events if isinstance(e, dict) and e["choices"]
    ]
    assert [role for role in roles if role] == ["assistant"]
    assert len({e["id"] for e in stream.events if isinstance(e, dict)}) == 1


@pytest.mark.parametrize("fate", fates.IN_STREAM.values(), ids=fates.IN_STREAM)
async def test_a_stream_that_nobody_can_go_on_with_ends_in_an_error(bench: Bench, fate: Fate) -> None:
    stream = await bench.gateway.streamed(bench.named("other", fate))
    assert stream.status == 200
    assert TEXT.startswith(stream.text)
    assert not stream.complete
    assert stream.error
    assert stream.error["trivium_code"] == "diverged"
    assert stream.events[-1] != "[DONE]"


@pytest.mark.parametrize("fate", fates.IN_STREAM.values(), ids=fates.IN_STREAM)
async def test_a_buffered_stream_mends_every_break(bench: Bench, fate: Fate) -> None:
    stream = await bench.gateway.streamed(bench.named("buffer", fate))
    assert (stream.text, stream.complete) == (OTHER, True)


@pytest.mark.parametrize("fate", fates.IN_STREAM.values(), ids=fates.IN_STREAM)
async def test_where_a_break_is_to_be_an_error_it_is_one(bench: Bench, fate: Fate) -> None:
    model = bench.named("error", fate)
    stream = await bench.gateway.streamed(model)
    assert stream.error
    assert not stream.complete
    assert len(bench.provider.of(model)) == 1


@pytest.mark.parametrize("fate", fates.IN_STREAM.values(), ids=fates.IN_STREAM)
async def test_a_target_that_continues_a_prefix_says_only_the_rest(bench: Bench, fate: Fate) -> None:
    stream = await bench.gateway.streamed(bench.named("prefix", fate))
    assert (stream.text, stream.complete) == (TEXT, True)
    last = bench.provider.of("continues")[-1].body["messages"][-1]
    assert last["role"] == "assistant"
    assert TEXT.startswith(last["content"])


@pytest.mark.parametrize("fate", fates.WHOLE.values(), ids=fates.WHOLE)
async def test_a_stream_with_a_finish_reason_is_whole_however_it_ends(bench: Bench, fate: Fate) -> None:
    model = bench.named("two", fate)
    stream = await bench.gateway.streamed(model)
    assert (stream.text, stream.complete) == (TEXT, True)
    assert len(bench.provider.of(model)) == 1


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("fate", fates.ANY.values(), ids=fates.ANY)
async def test_without_another_target_the_error_is_told_and_attempts_are_few(
    bench: Bench, fate: Fate, streams: bool
) -> None:
    model = bench.named("alone", fate)
    async with asyncio.timeout(MORE_THAN_ALL_S), bench.gateway.ask(model, stream=streams) as response:
        body = await response.json()
    assert response.status in (429, 502, 503, 504)
    assert set(body["error"]) == {"message", "type", "param", "code", "trivium_code"}
    assert len(bench.provider.of(model)) <= 2
    assert "choices" not in body


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("fate", "code"), fates.REFUSALS.values(), ids=fates.REFUSALS)
async def test_what_a_provider_refuses_is_asked_once_and_told_to_the_caller(
    bench: Bench, fate: Fate, code: str, streams: bool
) -> None:
    model = bench.named("two", fate)
    known = len(bench.provider.of("good"))
    async with bench.gateway.ask(model, stream=streams) as response:
        body = await response.json()
    assert (response.status, body["error"]["trivium_code"]) == (400, code)
    assert len(bench.provider.of(model)) == 1
    assert len(bench.provider.of("good")) == known


async def test_a_context_overflow_goes_to_the_next_larger_target(bench: Bench) -> None:
    model = bench.named("larger", fates.REFUSALS["context overflow"][0])
    known = len(bench.provider.of("other"))
    _, content, body = await bench.gateway.said(model)
    assert (content, body["model"]) == (TEXT, "good")
    assert len(bench.provider.of("other")) == known


async def test_a_closed_port_is_passed_over(bench: Bench) -> None:
    assert (await bench.gateway.said("route/refused"))[1] == TEXT
    assert (await bench.gateway.streamed("route/refused")).text == TEXT


@pytest.mark.parametrize("streams", [False, True])
async def test_retry_after_is_waited_for_within_the_deadline(bench: Bench, streams: bool) -> None:
    model = bench.named("patient", fates.healing(fates.status(429, "slow down", "Retry-After: 1"), 1))
    async with bench.gateway.ask(model, stream=streams) as response:
        assert response.status == 200
        await response.read()
    first, second = bench.provider.of(model)
    assert second.at - first.at >= 1.0


async def test_a_retry_after_beyond_the_deadline_is_told_and_not_waited_for(bench: Bench) -> None:
    model = bench.named("patient", fates.status(429, "slow down", "Retry-After: 30"))
    started = time.monotonic()
    async with bench.gateway.ask(model) as response:
        assert response.status == 429
    assert 25 <= int(response.headers["retry-after"]) <= 30
    assert time.monotonic() - started < 4
    async with bench.gateway.ask(model) as response:
        assert response.status in (429, 503)
    assert len(bench.provider.of(model)) == 1  # it asked to be spared


@pytest.mark.parametrize("fate", [fates.black_hole, fates.stall_after_headers], ids=["black hole", "stall"])
async def test_a_silent_target_is_not_asked_again(bench: Bench, fate: Fate) -> None:
    model = bench.named("alone", fate)
    async with bench.gateway.ask(model) as response:
        assert response.status == 504
    assert len(bench.provider.of(model)) == 1


@pytest.mark.parametrize("streams", [False, True])
async def test_time_outs_do_not_add_up_past_the_callers_deadline(bench: Bench, streams: bool) -> None:
    bench.provider.fates["good"], healthy = (
        fates.black_hole,
        bench.provider.fates.get("good", Call.completion),
    )
    try:
        model = bench.named("two", fates.black_hole)
        started = time.monotonic()
        async with bench.gateway.ask(model, stream=streams, headers={"X-Deadline-Ms": "600"}) as response:
            assert response.status == 504
        assert time.monotonic() - started < 1.5
        assert response.headers["x-trivium-deadline-ms"] == "600"
    finally:
        bench.provider.fates["good"] = healthy


@pytest.mark.parametrize("streams", [False, True])
async def test_a_caller_that_leaves_ends_the_providers_call_at_once(bench: Bench, streams: bool) -> None:
    fate = fates.stall_mid_stream if streams else fates.black_hole
    model = bench.named("two", fate)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), bench.gateway.ask(model, stream=streams) as response:
            await response.read()
    async with asyncio.timeout(2):
        while not bench.provider.hung_up[model]:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(2):
        while not [row for row in await bench.gateway.inferences() if row["status"] == "left"]:
            await asyncio.sleep(0.05)


async def test_tokens_are_passed_on_as_they_come(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def slowly(call: Call) -> None:
        await call.open()
        await call.pieces(WORDS[:2])
        await go_on.wait()
        for word in WORDS[2:]:
            await call.piece({"content": word})
        await call.finish()

    seen = b""
    async with bench.gateway.ask(bench.named("two", slowly), stream=True) as response:
        async for part in response.content.iter_any():
            seen += part
            if b"quick" in seen:
                go_on.set()  # only what was passed on before its end lets it end
    assert seen.endswith(b"data: [DONE]\n\n")


async def test_a_cap_bounds_what_is_under_way_and_what_waits(bench: Bench) -> None:
    under_way = most = 0

    async def slow(call: Call) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.3)
        under_way -= 1
        await call.completion()

    model = bench.named("capped", slow)
    answers = await asyncio.gather(*(bench.gateway.said(model) for _ in range(6)))
    assert most == 2
    assert sorted(status for status, *_ in answers) == [200, 200, 503, 503, 503, 503]


async def test_a_storm_of_429_in_mid_stream_ends(bench: Bench) -> None:
    model = bench.named("alone", fates.rate_limit_mid_stream)
    stream = await bench.gateway.streamed(model)
    assert stream.error
    assert stream.error["trivium_code"] == "rate_limited"
    assert len(bench.provider.of(model)) <= 2


async def test_the_ledger_has_every_attempt_and_the_answer_names_who_answered(bench: Bench) -> None:
    model = bench.named("two", fates.ANY["500"])
    async with bench.gateway.ask(model) as response:
        body = await response.json()
    attempts = await bench.gateway.attempts(response.headers["x-trivium-inference-id"])
    outcomes = [(a["target"].partition("@")[0], a["outcome"]) for a in attempts]
    assert outcomes == [
        (f"openai/{model}", "provider_error"),
        (f"openai/{model}", "provider_error"),
        ("openai/good", "ok"),
    ]
    assert [a["input_tokens"] for a in attempts] == [None, None, 11]
    assert body["usage"]["prompt_tokens"] == 11


async def test_streamed_and_buffered_answers_cost_the_same(bench: Bench) -> None:
    rows = []
    for streams in (False, True):
        model = bench.named("two", Call.completion)
        async with bench.gateway.ask(model, stream=streams) as response:
            await response.read()
        (attempt,) = await bench.gateway.attempts(response.headers["x-trivium-inference-id"])
        rows.append((attempt["input_tokens"], attempt["output_tokens"], attempt["cost_usd"]))
    assert rows[0] == rows[1] == (11, 9, None)


async def test_an_outage_is_bridged_by_few_calls_and_ends_soon_after_its_end(bench: Bench) -> None:
    url = bench.provider.url
    async with BrokenProvider() as primary:
        target = {"provider": "openai", "model": "primary", "base_url": primary.url, "timeouts": TIMES}
        second = {"provider": "openai", "model": "good", "base_url": url, "timeouts": TIMES}
        bench.gateway.write({**_routes(url), "route/outage": {"targets": [target, second]}})
        async with asyncio.timeout(5):
            while (await bench.gateway.said("route/outage"))[0] != 200:
                await asyncio.sleep(0.1)
        await primary.stop()
        answers = []
        for _ in range(20):
            answers.append(await bench.gateway.said("route/outage"))
            await asyncio.sleep(0.2)
        assert {status for status, *_ in answers} == {200}
        rows = [a for a in await bench.gateway.attempts() if a["target"].startswith("openai/primary")]
        assert len([a for a in rows if a["outcome"] == "connection"]) <= 8
        await primary.start()
        back = time.monotonic()
        async with asyncio.timeout(12):
            while (await bench.gateway.said("route/outage"))[2]["model"] != "primary":
                await asyncio.sleep(0.1)
        assert time.monotonic() - back < 12
