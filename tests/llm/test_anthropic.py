"""Anthropic's wire: a socket that breaks in every way, and a vendor that the official SDK understands."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from anthropic import AsyncAnthropic, RateLimitError
from anthropic.types import Message as SdkMessage

from support.answers import heard, read
from support.recordings import on_wire
from support.refusals import anthropic_error
from support.sockets import Handle, cut, http, reset, silent, socket, sse, stalled
from support.vendor import KEY, Answer, Fault, Refusal, Vendor
from trivium.domain.inference import Usage
from trivium.errors import (
    AccessDenied,
    ConnectionFailed,
    ContextOverflow,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.anthropic_request import request_body
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Chat, Completion, Limits, Message, asked, text_of

MODEL = "claude-haiku-5-5"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"summary": {"type": "string", "minLength": 1}}}
CHAT = asked(MODEL, [Message("user", "hi")], None, 0.0, 16)
SOON = Limits(0.3)


@asynccontextmanager
async def provider(handle: Handle) -> AsyncIterator[AnthropicProvider]:
    async with socket(handle) as running, aiohttp.ClientSession() as session:
        yield AnthropicProvider("anthropic", running.url, KeyRing([KEY]), session)


async def answered(handle: Handle, chat: Chat = CHAT) -> Completion:
    async with provider(handle) as one:
        return await one.complete(chat, Limits(1.0))


def message(stop: str | None, **other: object) -> dict[str, object]:
    return {
        "model": "m-2026",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hello"},
        ],
        "stop_reason": stop,
        "usage": {
            "input_tokens": 4,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2,
            "output_tokens": 5,
        },
        **other,
    }


FAULTS: list[tuple[str, Handle, type[StepError]]] = [
    ("429", http(429, anthropic_error("rate_limit_error"), "Retry-After: 7"), RateLimited),
    ("503", http(503, b"busy"), Overloaded),
    ("529", http(529, anthropic_error("overloaded_error")), Overloaded),
    ("500", http(500, anthropic_error("api_error")), ProviderError),
    ("504", http(504, anthropic_error("timeout_error")), ProviderError),
    ("408", http(408), ProviderError),
    ("409", http(409, anthropic_error("conflict_error")), ProviderError),
    ("400", http(400, anthropic_error("invalid_request_error")), RequestRefused),
    ("401 that says the key", http(401, anthropic_error("authentication_error", KEY)), AccessDenied),
    ("401 that says the key, not in JSON", http(401, f"bad key {KEY}".encode()), AccessDenied),
    ("404", http(404, anthropic_error("not_found_error")), AccessDenied),
    ("413", http(413, b"<html>"), RequestRefused),
    ("307", http(307, b"", "Location: http://127.0.0.1:1/v1/messages"), ProviderError),
    ("200, not JSON", http(200, b"<html>"), ProviderError),
    ("200, no content", http(200, {"stop_reason": "end_turn"}), ProviderError),
    ("200, content of nothing", http(200, message("end_turn", content=None)), ProviderError),
    ("200, a list", http(200, []), ProviderError),
    ("paused", http(200, message("pause_turn")), ProviderError),
    ("unknown end", http(200, message("tired")), ProviderError),
    ("no end", http(200, message(None)), ProviderError),
    ("reset", reset, ConnectionFailed),
    ("cut body", cut, ConnectionFailed),
    ("silence", silent, StepTimeout),
    ("stalled body", stalled, StepTimeout),
]


@pytest.mark.parametrize(("handle", "expected"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_every_fault_at_the_socket_has_its_name(handle: Handle, expected: type[StepError]) -> None:
    async with provider(handle) as broken:
        with pytest.raises(StepError) as caught:
            await broken.complete(CHAT, SOON)
    assert type(caught.value) is expected
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "finish", "expected"),
    [
        (message("max_tokens"), "length", ProviderError),
        (message("model_context_window_exceeded"), "length", ProviderError),
        (message("refusal", content=[]), "content_filter", PolicyRefused),
        (message("tool_use"), "tool_calls", ProviderError),
        (message("end_turn", content=[]), "stop", ProviderError),
    ],
)
async def test_an_answer_that_is_no_whole_text_is_passed_on_and_is_none_for_a_feature(
    body: dict[str, object], finish: str, expected: type[StepError]
) -> None:
    made = await answered(http(200, body))
    assert (made.finish_reason, made.usage) == (finish, Usage(9, 5, 3, 2))
    with pytest.raises(expected) as caught:
        text_of(made, "anthropic")
    assert type(caught.value) is expected
    assert caught.value.usage == Usage(input=9, output=5, cached_input=3, cache_write=2)


async def test_what_a_paused_answer_cost_is_kept() -> None:
    with pytest.raises(ProviderError) as caught:
        await answered(http(200, message("pause_turn")))
    assert caught.value.usage == Usage(9, 5, 3, 2)
    delta = {"type": "message_delta", "delta": {"stop_reason": "pause_turn"}, "usage": {"output_tokens": 5}}
    start = {"type": "message_start", "message": message(None, id="msg_1")}
    async with provider(sse(on_wire("anthropic", [start, delta]))) as paused:
        with pytest.raises(ProviderError, match="pause_turn") as caught:
            _ = [piece async for piece in paused.stream(CHAT, SOON)]
    assert caught.value.usage == Usage(9, 5, 3, 2)


@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence"])
async def test_the_text_blocks_are_the_answer_and_cached_tokens_are_part_of_the_input(stop: str) -> None:
    made = await answered(http(200, message(stop)))
    assert (text_of(made, "x"), made.model, made.usage) == ("hello", "m-2026", Usage(9, 5, 3, 2))
    assert made.message["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (None, "no reason given"),
        ("x", "no reason given"),
        ({"explanation": None, "category": "bio"}, "bio"),
        ({"explanation": "it is against the policy"}, "it is against the policy"),
    ],
)
async def test_a_refusal_says_why_if_the_vendor_does(details: object, said: str) -> None:
    made = await answered(http(200, message("refusal", stop_details=details)))
    assert made.message["refusal"] == said
    with pytest.raises(PolicyRefused, match=f"declined: {said}$"):
        text_of(made, "anthropic")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [1],
        "many",
        {"input_tokens": "x", "output_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1, "cache_read_input_tokens": 9},
        {"input_tokens": 10**30, "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": -1},
        {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": [1]},
        {"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}},
    ],
)
async def test_a_usage_that_cannot_be_true_is_unknown_and_costs_nobody_the_answer(usage: object) -> None:
    made = await answered(http(200, message("end_turn", usage=usage)))
    assert (text_of(made, "x"), made.usage, "usage" in made.body) == ("hello", None, False)


@pytest.mark.parametrize(
    ("begun", "texts", "expected"),
    [
        ("So: \n\n", [" ", "\n\n", "a"], "a"),
        ("So: \n\n", [" \n\na"], "a"),
        ("So: \n\n", [" ", "a"], " a"),
        ("So: ", [], None),
        ("So: ", ["a"], "a"),
        ("So:", [" a"], " a"),
        ("So: \n", [" "], " "),
    ],
)
async def test_what_goes_on_from_white_space_does_not_say_it_again(
    begun: str, texts: list[str], expected: str | None
) -> None:
    chat = Chat(MODEL, {"messages": [*CHAT.body["messages"], {"role": "assistant", "content": begun}]})
    start = {"type": "message_start", "message": message(None, id="msg_1")}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in texts
    ]
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    async with provider(sse(on_wire("anthropic", [start, *deltas, end]))) as one:
        said = heard([piece async for piece in one.stream(chat, SOON)])
    whole = message("end_turn", content=[{"type": "text", "text": "".join(texts)}])
    assert said.content == expected
    assert (read(await answered(http(200, whole), chat)).content or None) == expected


async def test_a_closed_port_is_a_failed_connection() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConnectionFailed):
            await AnthropicProvider("x", f"http://127.0.0.1:{port}", KeyRing(), session).complete(CHAT, SOON)


async def test_a_call_carries_key_and_version_and_brings_the_answer_back() -> None:
    async with Vendor() as vendor, aiohttp.ClientSession() as session:
        vendor.answer = lambda body: Answer('{"summary": "hello"}', input=9, output=3, cached=4)
        chat = asked(MODEL, [Message("system", "Be brief."), Message("user", "hi")], SCHEMA, 0.0, 16)
        one = AnthropicProvider("anthropic", vendor.url + "/", KeyRing([KEY]), session)
        made = await one.complete(chat, Limits(5.0))
        assert (json.loads(text_of(made, "x")), made.usage) == ({"summary": "hello"}, Usage(9, 3, 4))
        assert made.model == f"{MODEL}-20260101"
        assert vendor.bodies == [("POST /v1/messages", request_body(chat))]
        ((_, headers),) = vendor.headers
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "Authorization" not in headers


async def test_the_sdk_understands_the_vendor_that_these_tests_stand_on() -> None:
    async with (
        Vendor() as vendor,
        AsyncAnthropic(base_url=vendor.url, api_key=KEY, max_retries=0) as sdk,
        aiohttp.ClientSession() as session,
    ):
        for fate in (Answer(), Answer(stop="length"), Answer(None, stop="content_filter", cached=2)):
            vendor.answer = lambda body, fate=fate: fate  # type: ignore[misc]
            made = await sdk.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            )
            assert made.stop_reason in ("end_turn", "max_tokens", "refusal")
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        async with session.post(f"{vendor.url}/v1/messages", json=request_body(CHAT), headers=headers) as raw:
            assert not SdkMessage.model_validate_json(await raw.read(), strict=True).model_extra
        vendor.faults = [Fault("POST /v1/messages", status=429, retry_after="3")]
        with pytest.raises(RateLimitError) as limited:
            await sdk.messages.create(model=MODEL, max_tokens=9, messages=[])
        assert limited.value.response.headers["Retry-After"] == "3"


async def test_the_vendors_faults_are_mapped_too_and_a_wrong_key_is_refused() -> None:
    async with Vendor() as vendor, aiohttp.ClientSession() as session:
        client = AnthropicProvider("anthropic", vendor.url, KeyRing([KEY]), session)
        vendor.faults = [Fault("POST /v1/messages"), Fault("POST /v1/messages", silent_s=1)]
        with pytest.raises(ConnectionFailed):
            await client.complete(CHAT, Limits(1.0))
        with pytest.raises(StepTimeout):
            await client.complete(CHAT, Limits(0.1))
        vendor.answer = lambda body: Refusal(400, "prompt is too long")
        with pytest.raises(ContextOverflow, match="prompt is too long"):
            await client.complete(CHAT, Limits(1.0))
        vendor.faults = [Fault("POST /v1/messages", status=429, retry_after="3")]
        with pytest.raises(RateLimited) as limited:
            await client.complete(CHAT, Limits(1.0))
        assert limited.value.retry_after_s == 3
        for keys in (["sk-wrong"], []):
            stranger = AnthropicProvider("anthropic", vendor.url, KeyRing(keys), session)
            with pytest.raises(AccessDenied, match="401"):
                await stranger.complete(CHAT, Limits(1.0))
        assert vendor.requests["POST /v1/messages"] == 6
