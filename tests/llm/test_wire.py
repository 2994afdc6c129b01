"""Calls at a real socket: which key is used when, how long the others rest, and what an error never says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest

from support.recordings import RECORDINGS
from support.sockets import Handle, Socket, http, socket, sse
from trivium.errors import (
    AccessDenied,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm import wire as wires
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.google import GoogleProvider
from trivium.llm.keyring import REFUSED_S, KeyRing
from trivium.llm.openai import OpenAIProvider
from trivium.llm.provider import Chat, Limits
from trivium.llm.wire import Pace, Wire

OK = http(200, {"ok": True})


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def calling(
    *handles: Handle, keys: tuple[str, ...] = ("key-a", "key-b"), **given: Any
) -> AsyncIterator[tuple[Wire, Socket, Clock]]:
    clock = Clock()
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        yield Wire("vendor", session, KeyRing(keys, clock), **given), running, clock


async def ask(wire: Wire, running: Socket, model: str = "m", data: bytes = b"{}") -> Any:
    return await wire.ask("POST", running.url, 2.0, model=model, data=data)


def used(running: Socket) -> list[str]:
    return [asked.headers.get("authorization", "").removeprefix("Bearer ") for asked in running.asked]


async def test_a_key_that_is_limited_rests_as_long_as_the_vendor_says_and_the_next_is_used_at_once() -> None:
    async with calling(http(429, b"", "Retry-After: 7"), OK) as (wire, running, clock):
        assert await ask(wire, running) == {"ok": True}
        assert used(running) == ["key-a", "key-b"]
        clock.now += 6.9
        await ask(wire, running)
        assert used(running)[2:] == ["key-b"]
        clock.now += 0.2
        await ask(wire, running)
        assert used(running)[3:] == ["key-a"]


async def test_a_limit_holds_for_a_model_and_a_refusal_for_the_key() -> None:
    async with calling(http(429, b"", "Retry-After: 7"), OK) as (wire, running, _):
        await ask(wire, running, "m")
        await ask(wire, running, "other")
        assert used(running) == ["key-a", "key-b", "key-a"]
    for status in (401, 403):
        async with calling(http(status, b"no"), OK) as (wire, running, clock):
            await ask(wire, running, "m")
            await ask(wire, running, "other")
            assert used(running) == ["key-a", "key-b", "key-b"]
            clock.now += REFUSED_S
            await ask(wire, running, "m")
            assert used(running)[-1] == "key-a"


async def test_when_all_keys_rest_nobody_is_asked_and_the_wait_is_told() -> None:
    limits = http(429, b"", "Retry-After: 7"), http(429, b"", "Retry-After: 3")
    async with calling(*limits, OK) as (wire, running, clock):
        with pytest.raises(RateLimited) as caught:
            await ask(wire, running)
        assert caught.value.retry_after_s == 3
        clock.now += 1
        with pytest.raises(RateLimited, match="vendor asked for too much lately") as caught:
            await ask(wire, running)
        assert caught.value.retry_after_s == pytest.approx(2)
        assert used(running) == ["key-a", "key-b"]
        clock.now += 2.1
        await ask(wire, running)
        assert used(running)[2:] == ["key-b"]


async def test_the_only_key_rests_if_the_vendor_says_how_long_and_is_tried_again_otherwise() -> None:
    async with calling(http(429, b"", "Retry-After: 7"), OK, keys=("key-a",)) as (wire, running, _):
        for _ in range(2):
            with pytest.raises(RateLimited):
                await ask(wire, running)
        assert used(running) == ["key-a"]
    for status, expected in ((429, RateLimited), (401, AccessDenied)):
        async with calling(http(status), OK, keys=("key-a",)) as (wire, running, _):
            with pytest.raises(expected):
                await ask(wire, running)
            assert await ask(wire, running) == {"ok": True}


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, RequestRefused), (404, AccessDenied), (500, ProviderError), (503, Overloaded), (529, Overloaded)],
)
async def test_what_another_key_would_not_change_is_not_asked_again(
    status: int, expected: type[StepError]
) -> None:
    async with calling(http(status, b"no"), OK) as (wire, running, _):
        with pytest.raises(expected):
            await ask(wire, running)
        await ask(wire, running)
    assert used(running) == ["key-a", "key-a"]


@pytest.mark.parametrize("size", [2, 3 * 2**20])
async def test_the_next_key_sends_the_whole_request_too(size: int) -> None:
    data = b"x" * size
    async with calling(http(429), http(401), OK, keys=("key-a", "key-b", "key-c")) as (wire, running, _):
        await ask(wire, running, data=data)
    assert used(running) == ["key-a", "key-b", "key-c"]
    assert [asked.body == data for asked in running.asked] == [True] * 3


async def test_without_keys_a_call_goes_out_without_one() -> None:
    async with calling(OK, keys=()) as (wire, running, _):
        await ask(wire, running)
    assert "authorization" not in running.asked[0].headers


@pytest.mark.parametrize("vendor", [OpenAIProvider, AnthropicProvider, GoogleProvider])
async def test_a_stream_goes_on_with_the_next_key_too(vendor: Any) -> None:
    name = vendor.__name__.removesuffix("Provider").lower()
    recording = next(r for r in RECORDINGS if r.vendor == name)
    handles = (http(429, b"", "Retry-After: 7"), http(401), sse(recording.stream))
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        one = vendor(name, running.url, KeyRing(["key-a", "key-b", "key-c"]), session)
        chat = Chat("m", {"messages": [{"role": "user", "content": "hi"}]})
        async with aclosing(one.stream(chat, Limits(2.0))) as pieces:
            assert [piece async for piece in pieces if piece.finish_reason]
    sent = [str(asked.headers) for asked in running.asked]
    assert ["key-a" in sent[0], "key-b" in sent[1], "key-c" in sent[2]] == [True] * 3
    assert not any("key-" in asked.line for asked in running.asked)
    assert len({asked.body for asked in running.asked}) == 1


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        (["Retry-After: 7"], 7, 7),
        (["Retry-After: 0"], 0, 0),
        (["Retry-After: 0.25"], 0.25, 0.25),
        ([f"Retry-After: {formatdate(time.time() + 7200, usegmt=True)}"], 3600, 7200),
        ([f"Retry-After: {formatdate(time.time() - 40, usegmt=True)}"], 0, 0),
        (["retry-after-ms: 250"], 0.25, 0.25),
        (["retry-after-ms: 250", "Retry-After: 7"], 0.25, 0.25),
        (["retry-after-ms: soon", "Retry-After: 7"], 7, 7),
        (["Retry-After: soon"], None, None),
        (["Retry-After: inf"], None, None),
        ([], None, None),
    ],
)
async def test_how_long_to_wait_is_read_in_every_form(
    headers: list[str], low: float | None, high: float | None
) -> None:
    for status, expected in ((429, RateLimited), (503, Overloaded), (500, ProviderError)):
        async with calling(http(status, b"", *headers), keys=("key-a",)) as (wire, running, _):
            with pytest.raises(expected) as caught:
                await ask(wire, running)
        waits = caught.value.retry_after_s
        assert waits is None if low is None or high is None else waits is not None and low <= waits <= high


@pytest.mark.parametrize(
    ("details", "wait"),
    [
        ([{"@type": "x/ErrorInfo"}, {"@type": "x/RetryInfo", "retryDelay": "7.5s"}], 7.5),
        ([{"retryDelay": 7}], None),
        ([{"retryDelay": "soon"}], None),
        (["retryDelay"], None),
        ({"retryDelay": "7s"}, None),
    ],
)
async def test_googles_way_of_saying_how_long_is_read_too(details: Any, wait: float | None) -> None:
    told = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "no", "details": details}}
    async with calling(http(429, told), keys=("key-a",)) as (wire, running, _):
        with pytest.raises(RateLimited, match="no") as caught:
            await ask(wire, running)
    assert caught.value.retry_after_s == wait


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503])
@pytest.mark.parametrize("shape", [b"%s", b'{"error": {"message": "%s"}}', b'{"error": "%s"}'])
async def test_no_error_says_a_key(status: int, shape: bytes) -> None:
    body = shape % b"Incorrect API keys provided: key-a, key-b"
    async with calling(http(status, body)) as (wire, running, _):
        for _ in range(3):
            with pytest.raises(StepError) as caught:
                await ask(wire, running)
            assert "key-a" not in str(caught.value) and "key-b" not in str(caught.value)
            assert not caught.value.__cause__ or "key-" not in str(caught.value.__cause__)
    broken = http(200, b"", "Content-Encoding: gzip\r\nX: key-a")
    async with calling(broken) as (wire, running, _):
        with pytest.raises(StepError) as caught:
            await wire.ask("POST", "http://key-a.invalid:-1", 1.0)
        assert "key-a" not in str(caught.value)


async def test_an_error_that_arrives_in_two_parts_is_read_whole() -> None:
    whole = b'{"error": {"code": "context_length_exceeded", "message": "too long"}}'

    async def slowly(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 400 X\r\nContent-Length: {len(whole)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + whole[:20])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(whole[20:])
        await writer.drain()

    async with calling(slowly) as (wire, running, _):
        with pytest.raises(RequestRefused, match="too long"):
            await ask(wire, running)


async def test_an_error_that_is_cut_keeps_its_status() -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 500\r\n\r\nit is too")
        await writer.drain()

    async with calling(cut) as (wire, running, _):
        with pytest.raises(RequestRefused, match="413: it is too"):
            await ask(wire, running)


async def test_a_whole_answer_to_a_stream_that_stalls_is_timed_out() -> None:
    async with calling(stalled_json) as (wire, running, _):
        events = wire.events(running.url, b"{}", Limits(5.0, first_token_s=0.3), Pace(5.0), {}, "m")
        with pytest.raises(StepTimeout):
            await asyncio.wait_for(anext(events), 2)


async def stalled_json(writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Type: application/json\r\n\r\n{"
    writer.write(head)
    await writer.drain()
    await asyncio.sleep(5)


async def test_a_key_is_not_taken_along_to_where_an_answer_points() -> None:
    async with socket(OK) as other, calling(http(307, b"", f"Location: {other.url}")) as (wire, running, _):
        with pytest.raises(ProviderError, match="307"):
            await ask(wire, running)
        assert not other.asked


async def test_an_answer_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "_MAX_BODY_BYTES", 1000)
    async with calling(http(200, b'"' + b"x" * 2000 + b'"')) as (wire, running, _):
        with pytest.raises(ProviderError, match="more than 1000 bytes"):
            await ask(wire, running)


async def test_an_event_without_an_end_does_not_fill_the_memory() -> None:
    async with calling(sse(b"data: " + b"x" * 9 * 2**20)) as (wire, running, _):
        events = wire.events(running.url, b"{}", Limits(5.0), Pace(5.0), {}, "m")
        with pytest.raises(ProviderError, match="an event of more than"):
            await anext(events)


@pytest.mark.parametrize("status", [200, 429])
async def test_a_total_is_kept_over_all_keys(status: int) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await http(status, {"ok": True})(writer)

    keys = tuple(f"key-{n}" for n in range(20))
    async with calling(slowly, keys=keys) as (wire, running, _):
        started = time.monotonic()
        with pytest.raises(StepTimeout) if status == 429 else nullcontext():
            await wire.ask("POST", running.url, 0.5)
        assert time.monotonic() - started < 0.9
