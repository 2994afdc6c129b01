"""OpenAI's wire: a provider that breaks at the socket in every way, and the real model that does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from support.platform import RunningPlatform
from trivium.domain.inference import Usage
from trivium.errors import (
    ConnectionFailed,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm.openai import OpenAIProvider
from trivium.llm.provider import CompletionRequest, Message

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECRET = "sk-secret"
REQUEST = CompletionRequest("m", [Message("user", "hi")], None, 0.0, 16)


@asynccontextmanager
async def provider(handle: Handle) -> AsyncIterator[OpenAIProvider]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as session:
        yield OpenAIProvider("openai", f"http://127.0.0.1:{port}/v1", SECRET, session)


def http(status: int, body: object, *headers: str) -> Handle:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Content-Type: application/json", *headers]

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + raw)
        await writer.drain()

    return handle


def completion(finish: str, content: object = "hello") -> dict[str, object]:
    return {
        "model": "m-2026",
        "choices": [{"finish_reason": finish, "message": {"content": content}}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [')
    await writer.drain()


async def _silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def _stalled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(5)


FAULTS: list[tuple[str, Handle, type[StepError]]] = [
    ("429", http(429, {"error": {"message": "slow down"}}, "Retry-After: 7"), RateLimited),
    ("503", http(503, b"busy", "Retry-After: 7"), Overloaded),
    ("529", http(529, b"busy"), Overloaded),
    ("500", http(500, b"oops"), ProviderError),
    ("502 with HTML", http(502, b"<html>"), ProviderError),
    ("400", http(400, {"error": {"message": "bad schema"}}), RequestRefused),
    ("401", http(401, {"error": {"message": "bad key"}}), RequestRefused),
    ("200, not JSON", http(200, b"<html>"), ProviderError),
    ("200, no choices", http(200, {"choices": []}), ProviderError),
    ("200, a list", http(200, []), ProviderError),
    ("cut at the token limit", http(200, completion("length")), ProviderError),
    ("declined", http(200, completion("content_filter")), RequestRefused),
    ("no text", http(200, completion("stop", None)), RequestRefused),
    ("unknown end", http(200, completion("tired")), ProviderError),
    ("reset", _reset, ConnectionFailed),
    ("cut body", _cut, ConnectionFailed),
    ("silence", _silent, StepTimeout),
    ("stalled body", _stalled, StepTimeout),
]


@pytest.mark.parametrize(("handle", "expected"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_every_fault_at_the_socket_has_its_name(handle: Handle, expected: type[StepError]) -> None:
    async with provider(handle) as broken:
        with pytest.raises(StepError) as caught:
            await broken.complete(REQUEST, 0.3)
    assert type(caught.value) is expected
    assert SECRET not in str(caught.value)


async def test_retry_after_is_passed_on() -> None:
    async with provider(http(429, {}, "Retry-After: 7")) as limited:
        with pytest.raises(RateLimited) as caught:
            await limited.complete(REQUEST, 1)
    assert caught.value.retry_after_s == 7


async def test_what_a_rejected_answer_cost_is_kept() -> None:
    async with provider(http(200, completion("length"))) as cut:
        with pytest.raises(ProviderError) as caught:
            await cut.complete(REQUEST, 1)
    assert caught.value.usage == Usage(9, 3, 4)


@pytest.mark.parametrize(
    "usage",
    [
        [1],
        "many",
        {"prompt_tokens": "x", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": [1]},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
    ],
)
async def test_a_usage_that_cannot_be_true_is_unknown_and_costs_nobody_the_answer(usage: object) -> None:
    async with provider(http(200, completion("stop") | {"usage": usage})) as odd:
        made = await odd.complete(REQUEST, 1)
    assert (made.text, made.usage) == ("hello", None)


async def test_a_closed_port_is_a_failed_connection() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConnectionFailed):
            await OpenAIProvider("x", f"http://127.0.0.1:{port}", None, session).complete(REQUEST, 1)


@pytest.mark.platform
@pytest.mark.parametrize("name", ["local", "openai"])
async def test_the_same_client_speaks_to_the_self_hosted_model(platform: RunningPlatform, name: str) -> None:
    schema = {
        "type": "object",
        "required": ["label"],
        "properties": {"label": {"enum": ["card", "transfer"]}},
        "additionalProperties": False,
    }
    request = CompletionRequest("smollm2", [Message("user", "My card is lost.")], schema, 0.0, 32)
    async with aiohttp.ClientSession() as session:
        made = await OpenAIProvider(name, platform.url("llm", "/v1"), SECRET, session).complete(request, 20)
    assert json.loads(made.text)["label"] in ("card", "transfer")
    assert made.usage
    assert made.usage.output > 0
