"""Anthropic's wire: a socket that breaks in every way, and a vendor that the official SDK understands."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, get_type_hints

import aiohttp
import pytest
from anthropic import AsyncAnthropic, RateLimitError, transform_schema
from anthropic.types import Message as SdkMessage
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import TypeAdapter

from support.vendor import KEY, Answer, Fault, Refusal, Vendor
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
from trivium.llm.anthropic import AnthropicProvider, decodable, request_body
from trivium.llm.provider import CompletionRequest, Message

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MODEL = "claude-haiku-5-5"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["summary"],
    "properties": {"summary": {"type": "string", "minLength": 1, "maxLength": 300}},
    "additionalProperties": False,
}
REQUEST = CompletionRequest(MODEL, [Message("user", "hi")], None, 0.0, 16)


@asynccontextmanager
async def provider(handle: Handle) -> AsyncIterator[AnthropicProvider]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as session:
        yield AnthropicProvider("anthropic", f"http://127.0.0.1:{port}", KEY, session)


def http(status: int, body: object, *headers: str) -> Handle:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Content-Type: application/json", *headers]

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + raw)
        await writer.drain()

    return handle


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


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"content": [')
    await writer.drain()


async def _silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def _stalled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(5)


def error(kind: str, text: str = "no") -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": text}}


FAULTS: list[tuple[str, Handle, type[StepError]]] = [
    ("429", http(429, error("rate_limit_error"), "Retry-After: 7"), RateLimited),
    ("503", http(503, b"busy"), Overloaded),
    ("529", http(529, error("overloaded_error")), Overloaded),
    ("500", http(500, error("api_error")), ProviderError),
    ("504", http(504, error("timeout_error")), ProviderError),
    ("408", http(408, b""), ProviderError),
    ("409", http(409, error("conflict_error")), ProviderError),
    ("400", http(400, error("invalid_request_error")), RequestRefused),
    ("401 that says the key", http(401, error("authentication_error", f"bad key {KEY}")), RequestRefused),
    ("401 that says the key, not in JSON", http(401, f"bad key {KEY}".encode()), RequestRefused),
    ("404", http(404, error("not_found_error")), RequestRefused),
    ("413", http(413, b"<html>"), RequestRefused),
    ("307", http(307, b"", "Location: http://127.0.0.1:1/v1/messages"), RequestRefused),
    ("200, not JSON", http(200, b"<html>"), ProviderError),
    ("200, no content", http(200, {"stop_reason": "end_turn"}), ProviderError),
    ("200, content of nothing", http(200, message("end_turn", content=None)), ProviderError),
    ("200, a list", http(200, []), ProviderError),
    ("200, no text", http(200, message("end_turn", content=[])), ProviderError),
    ("cut at the token limit", http(200, message("max_tokens")), ProviderError),
    ("cut at the window", http(200, message("model_context_window_exceeded")), ProviderError),
    ("paused", http(200, message("pause_turn")), ProviderError),
    ("no end", http(200, message(None)), ProviderError),
    ("declined", http(200, message("refusal", content=[])), RequestRefused),
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
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "pause_turn"])
async def test_what_a_rejected_answer_cost_is_kept(stop: str) -> None:
    async with provider(http(200, message(stop))) as cut:
        with pytest.raises(StepError) as caught:
            await cut.complete(REQUEST, 1)
    assert caught.value.usage == Usage(input=9, output=5, cached_input=3)


@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence", "tool_use"])
async def test_the_text_blocks_are_the_answer_and_cached_tokens_are_part_of_the_input(stop: str) -> None:
    async with provider(http(200, message(stop))) as whole:
        made = await whole.complete(REQUEST, 1)
    assert (made.text, made.model, made.usage) == ("hello", "m-2026", Usage(9, 5, 3))


@pytest.mark.parametrize(
    "details",
    [None, "x", {"explanation": None, "category": "bio"}, {"explanation": "it is against the policy"}],
)
async def test_a_refusal_says_why_if_the_vendor_does(details: object) -> None:
    async with provider(http(200, message("refusal", stop_details=details))) as strict:
        with pytest.raises(
            RequestRefused, match=r"declined: (no reason given|bio|it is against the policy)$"
        ):
            await strict.complete(REQUEST, 1)


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
    ],
)
async def test_a_usage_that_cannot_be_true_is_unknown_and_costs_nobody_the_answer(usage: object) -> None:
    async with provider(http(200, message("end_turn", usage=usage))) as odd:
        made = await odd.complete(REQUEST, 1)
    assert (made.text, made.usage) == ("hello", None)


async def test_a_closed_port_is_a_failed_connection() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConnectionFailed):
            await AnthropicProvider("x", f"http://127.0.0.1:{port}", None, session).complete(REQUEST, 1)


async def test_a_call_carries_key_and_version_and_brings_the_answer_back() -> None:
    async with Vendor() as vendor, aiohttp.ClientSession() as session:
        vendor.answer = lambda body: Answer('{"summary": "hello"}', input=9, output=3, cached=4)
        asked = CompletionRequest(
            MODEL,
            [Message("system", "Be brief."), Message("user", "hi"), Message("system", "Be kind.")],
            SCHEMA,
            0.0,
            16,
        )
        made = await AnthropicProvider("anthropic", vendor.url + "/", KEY, session).complete(asked, 5)
        assert (json.loads(made.text), made.usage) == ({"summary": "hello"}, Usage(9, 3, 4))
        assert made.model == f"{MODEL}-20260101"
        ((_, sent),) = vendor.bodies
        ((path, headers),) = vendor.headers
    assert path == "POST /v1/messages"
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert (sent["system"], sent["messages"]) == (
        "Be brief.\n\nBe kind.",
        [{"role": "user", "content": "hi"}],
    )
    assert sent["output_config"]["format"]["schema"]["properties"]["summary"] == {
        "type": "string",
        "description": "{minLength: 1, maxLength: 300}",
    }


async def test_what_is_sent_is_what_the_sdk_would_send() -> None:
    body = request_body(CompletionRequest(MODEL, [Message("user", "hi")], SCHEMA, 0.0, 16))
    TypeAdapter(MessageCreateParamsNonStreaming).validate_python(body, strict=True)
    assert set(body) <= set(get_type_hints(MessageCreateParamsNonStreaming))


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-haiku-20240307", True),
        ("claude-opus-4-20250514", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-haiku-4-5", True),
        ("claude-opus-4-6", True),
        ("claude-opus-4-7", False),
        ("claude-opus-4-10", False),
        ("claude-opus-4-8-20270101", False),
        ("claude-sonnet-5", False),
        ("claude-haiku-5-5", False),
        ("claude-mythos-preview", False),
    ],
)
def test_only_models_that_take_a_temperature_are_sent_one(model: str, takes: bool) -> None:
    body = request_body(CompletionRequest(model, [Message("user", "hi")], None, 0.5, 16))
    assert body.get("temperature") == (0.5 if takes else None)


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {
            "type": "object",
            "description": "An order.",
            "$defs": {"amount": {"type": "number", "exclusiveMinimum": 0}},
            "properties": {
                "minimum": {"type": "integer", "minimum": 3, "description": "The least."},
                "day": {"type": "string", "format": "date"},
                "iban": {"type": "string", "pattern": "^[A-Z]{2}", "format": "iban"},
                "amount": {"$ref": "#/$defs/amount"},
                "lines": {"type": "array", "minItems": 1, "maxItems": 9, "items": {"type": "string"}},
                "many": {"type": "array", "minItems": 2, "items": {"type": "object", "properties": {}}},
                "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
                "both": {"allOf": [{"type": "string"}]},
                "kind": {"enum": ["a", "b"]},
                "one": {"const": 1},
            },
            "required": ["day"],
        },
    ],
)
def test_a_schema_is_cut_to_what_the_sdk_cuts_it_to(schema: dict[str, Any]) -> None:
    before = json.dumps(schema)
    assert decodable(schema) == transform_schema(schema)
    assert json.dumps(schema) == before


def test_an_odd_schema_is_passed_on_for_the_vendor_to_judge() -> None:
    odd = {"$schema": "x", "type": ["object", "null"], "properties": {"any": True}, "items": False}
    assert decodable(odd) == {"type": ["object", "null"], "properties": {"any": True}, "items": False}


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
        async with session.post(
            f"{vendor.url}/v1/messages", json=request_body(REQUEST), headers=headers
        ) as raw:
            assert not SdkMessage.model_validate_json(await raw.read(), strict=True).model_extra
        vendor.faults = [Fault("POST /v1/messages", status=429, retry_after="3")]
        with pytest.raises(RateLimitError) as limited:
            await sdk.messages.create(model=MODEL, max_tokens=9, messages=[])
        assert limited.value.response.headers["Retry-After"] == "3"


async def test_the_vendors_faults_are_mapped_too_and_a_wrong_key_is_refused() -> None:
    async with Vendor() as vendor, aiohttp.ClientSession() as session:
        client = AnthropicProvider("anthropic", vendor.url, KEY, session)
        vendor.faults = [
            Fault("POST /v1/messages", status=429, retry_after="3"),
            Fault("POST /v1/messages"),
            Fault("POST /v1/messages", silent_s=1),
        ]
        with pytest.raises(RateLimited) as limited:
            await client.complete(REQUEST, 1)
        assert limited.value.retry_after_s == 3
        with pytest.raises(ConnectionFailed):
            await client.complete(REQUEST, 1)
        with pytest.raises(StepTimeout):
            await client.complete(REQUEST, 0.1)
        vendor.answer = lambda body: Refusal(400, "prompt is too long")
        with pytest.raises(RequestRefused, match="prompt is too long"):
            await client.complete(REQUEST, 1)
        for key in ("sk-wrong", None):
            with pytest.raises(RequestRefused, match="401"):
                await AnthropicProvider("anthropic", vendor.url, key, session).complete(REQUEST, 1)
        assert vendor.requests["POST /v1/messages"] == 6
