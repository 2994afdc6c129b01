"""OpenAI's wire: a provider that breaks at the socket in every way, and the real model that does not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from support.platform import RunningPlatform
from support.recordings import RECORDINGS
from support.sdk_types import conforms
from support.sockets import Handle, cut, http, reset, silent, socket, sse, stalled
from trivium.domain.inference import Usage
from trivium.errors import (
    AccessDenied,
    ConnectionFailed,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import OpenAIProvider, request_body
from trivium.llm.provider import Chat, Completion, Limits, Message, asked, text_of

SECRET = "sk-secret"
CHAT = asked("m", [Message("user", "hi")], None, 0.0, 16)
LIMITS = Limits(1.0)


@asynccontextmanager
async def provider(handle: Handle) -> AsyncIterator[OpenAIProvider]:
    async with socket(handle) as running, aiohttp.ClientSession() as session:
        yield OpenAIProvider("openai", f"{running.url}/v1", KeyRing([SECRET]), session)


async def answered(handle: Handle) -> Completion:
    async with provider(handle) as one:
        return await one.complete(CHAT, LIMITS)


def completion(finish: str | None, content: object = "hello", **message: object) -> dict[str, object]:
    return {
        "model": "m-2026",
        "choices": [{"finish_reason": finish, "message": {"content": content, **message}}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


FAULTS: list[tuple[str, Handle, type[StepError]]] = [
    ("429", http(429, {"error": {"message": "slow down"}}, "Retry-After: 7"), RateLimited),
    ("503", http(503, b"busy", "Retry-After: 7"), Overloaded),
    ("529", http(529, b"busy"), Overloaded),
    ("500", http(500, b"oops"), ProviderError),
    ("502 with HTML", http(502, b"<html>"), ProviderError),
    ("400", http(400, {"error": {"message": "bad schema"}}), RequestRefused),
    ("401", http(401, {"error": {"message": f"bad key {SECRET}"}}), AccessDenied),
    ("200, not JSON", http(200, b"<html>"), ProviderError),
    ("200, no choices", http(200, {"choices": []}), ProviderError),
    ("200, a list", http(200, []), ProviderError),
    ("200, no finish reason", http(200, completion(None)), ProviderError),
    ("reset", reset, ConnectionFailed),
    ("cut body", cut, ConnectionFailed),
    ("silence", silent, StepTimeout),
    ("stalled body", stalled, StepTimeout),
]


@pytest.mark.parametrize(("handle", "expected"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_every_fault_at_the_socket_has_its_name(handle: Handle, expected: type[StepError]) -> None:
    async with provider(handle) as broken:
        with pytest.raises(StepError) as caught:
            await broken.complete(CHAT, Limits(0.3))
    assert type(caught.value) is expected
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion("length"), ProviderError),
        (completion("content_filter"), PolicyRefused),
        (completion("stop", None, refusal="I can't"), PolicyRefused),
        (completion("stop", None), ProviderError),
        (completion("tool_calls", None), ProviderError),
        (completion("tired"), ProviderError),
    ],
)
async def test_an_answer_that_is_no_whole_text_is_passed_on_and_is_none_for_a_feature(
    body: dict[str, object], expected: type[StepError]
) -> None:
    made = await answered(http(200, body))
    assert made.body == body
    with pytest.raises(expected) as caught:
        text_of(made, "openai")
    assert type(caught.value) is expected
    assert caught.value.usage == Usage(9, 3, 4)


async def test_a_text_is_a_text() -> None:
    made = await answered(http(200, completion("stop")))
    assert (text_of(made, "x"), made.model, made.usage) == ("hello", "m-2026", Usage(9, 3, 4))


async def test_retry_after_is_passed_on() -> None:
    with pytest.raises(RateLimited) as caught:
        await answered(http(429, {}, "Retry-After: 7"))
    assert caught.value.retry_after_s == 7


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
        {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 2}},
    ],
)
async def test_a_usage_that_cannot_be_true_is_unknown_and_costs_nobody_the_answer(usage: object) -> None:
    made = await answered(http(200, completion("stop") | {"usage": usage}))
    assert (text_of(made, "x"), made.usage) == ("hello", None)


@pytest.mark.parametrize(("name", "limit"), [("openai", "max_completion_tokens"), ("local", "max_tokens")])
async def test_what_is_sent_is_what_the_sdk_would_send(name: str, limit: str) -> None:
    for given in ("max_tokens", "max_completion_tokens"):
        body = request_body(name, Chat("m", {"messages": [{"role": "user", "content": "hi"}], given: 16}))
        conforms(CompletionCreateParamsNonStreaming, body)
        assert body[limit] == 16
        assert len(body) == 3
    recording = next(r for r in RECORDINGS if r.vendor == "openai")
    async with socket(sse(recording.stream)) as running, aiohttp.ClientSession() as session:
        one = OpenAIProvider(name, f"{running.url}/v1/", KeyRing([SECRET]), session)
        async with aclosing(one.stream(CHAT, LIMITS)) as pieces:
            assert [piece async for piece in pieces]
    (sent,) = running.asked
    conforms(CompletionCreateParamsStreaming, sent.json)
    assert sent.line == "POST /v1/chat/completions HTTP/1.1"
    assert (sent.headers["authorization"], sent.headers["content-type"]) == (
        f"Bearer {SECRET}",
        "application/json",
    )


async def test_a_closed_port_is_a_failed_connection() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConnectionFailed):
            await OpenAIProvider("x", f"http://127.0.0.1:{port}", KeyRing(), session).complete(CHAT, LIMITS)


@pytest.mark.platform
@pytest.mark.parametrize("name", ["local", "openai"])
async def test_the_same_client_speaks_to_the_self_hosted_model(platform: RunningPlatform, name: str) -> None:
    schema = {
        "type": "object",
        "required": ["label"],
        "properties": {"label": {"enum": ["card", "transfer"]}},
        "additionalProperties": False,
    }
    chat = asked("smollm2", [Message("user", "My card is lost.")], schema, 0.0, 32)
    async with aiohttp.ClientSession() as session:
        one = OpenAIProvider(name, platform.url("llm", "/v1"), KeyRing([SECRET]), session)
        made = await one.complete(chat, Limits(20.0))
        async with aclosing(one.stream(chat, Limits(20.0))) as pieces:
            heard = [piece async for piece in pieces]
    assert json.loads(text_of(made, name))["label"] in ("card", "transfer")
    assert made.usage
    assert made.usage.output > 0
    assert "".join(piece.delta.get("content") or "" for piece in heard) == text_of(made, name)
    assert heard[-1].usage
