"""Streams of the three vendors: they say what a complete answer says, or they end in an error with a name."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from support.answers import Said, heard, read
from support.recordings import RECORDINGS, Recording, on_wire
from support.refusals import ERRORS, SECRET
from support.sockets import Handle, Socket, cut, http, reset, silent, socket, sse
from trivium.errors import (
    ConnectionFailed,
    ProviderError,
    StepError,
    StepTimeout,
)
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.google import GoogleProvider
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import OpenAIProvider
from trivium.llm.provider import Chat, Chunk, Limits, Provider

CHAT = Chat("m", {"messages": [{"role": "user", "content": "hi"}]})
LIMITS = Limits(2.0, first_token_s=0.4, idle_s=0.4)
PROVIDERS: dict[str, Callable[..., Provider]] = {
    "openai": OpenAIProvider,
    "anthropic": AnthropicProvider,
    "google": GoogleProvider,
}
TEXTS = [r for r in RECORDINGS if r.name == "text"]
each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: f"{r.vendor}: {r.name}")
each_vendor = pytest.mark.parametrize("recording", TEXTS, ids=lambda r: str(r.vendor))


@asynccontextmanager
async def calling(vendor: str, *handles: Handle) -> AsyncIterator[tuple[Provider, Socket]]:
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        yield PROVIDERS[vendor](vendor, running.url, KeyRing([SECRET]), session), running


async def streamed(vendor: str, handle: Handle, limits: Limits = LIMITS) -> list[Chunk]:
    async with calling(vendor, handle) as (provider, _), aclosing(provider.stream(CHAT, limits)) as pieces:
        return [chunk async for chunk in pieces]


async def broken(vendor: str, handle: Handle) -> tuple[str, StepError]:
    """What was heard before the error, and the error."""
    text = ""
    async with calling(vendor, handle) as (provider, _):
        try:
            async with aclosing(provider.stream(CHAT, LIMITS)) as pieces:
                async for chunk in pieces:
                    assert not chunk.finish_reason
                    text += chunk.delta.get("content") or ""
        except StepError as error:
            failure = error
        else:
            raise AssertionError("it ended as if it were whole")
    assert SECRET not in str(failure)
    return text, failure


@each_recording
def test_the_recordings_have_the_shapes_of_the_vendors_own_sdks(recording: Recording) -> None:
    if recording.vendor == "openai":
        ChatCompletion.model_validate(recording.answer, strict=True)
        for event in recording.events:
            ChatCompletionChunk.model_validate(event, strict=True)
    elif recording.vendor == "anthropic":
        AnthropicMessage.model_validate(recording.answer, strict=True)
        known = TypeAdapter(cast(Any, RawMessageStreamEvent))
        for event in recording.events:
            if event["type"] != "ping":
                known.validate_python(event, strict=True)
    else:
        for response in (recording.answer, *recording.events):
            GenerateContentResponse.model_validate(response)


@each_recording
async def test_a_stream_says_what_the_complete_answer_says(recording: Recording) -> None:
    chunks = await streamed(recording.vendor, sse(recording.stream))
    async with calling(recording.vendor, http(200, recording.answer)) as (provider, _):
        whole = await provider.complete(CHAT, LIMITS)
    assert heard(chunks) == read(whole) == recording.said
    kept = ("id", "model")
    assert {tuple(chunk.body[key] for key in kept) for chunk in chunks} == {
        tuple(whole.body[key] for key in kept)
    }
    if chunks[-1].usage:
        assert (chunks[-1].body["choices"], chunks[-1].body["usage"]) == ([], whole.body["usage"])


@each_recording
async def test_what_comes_out_is_what_openais_sdk_reads(recording: Recording) -> None:
    chunks = await streamed(recording.vendor, sse(recording.stream))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.body, strict=True)
    async with calling(recording.vendor, http(200, recording.answer)) as (provider, _):
        whole = await provider.complete(CHAT, LIMITS)
    made = ChatCompletion.model_validate(whole.body, strict=True)
    assert made.choices[0].message.content == recording.said.content
    assert made.usage
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens


@each_recording
async def test_where_the_bytes_are_split_and_how_lines_end_changes_nothing(recording: Recording) -> None:
    for raw in (recording.stream, recording.stream.replace(b"\n", b"\r\n")):
        for size in (1, 7, 1000):
            assert heard(await streamed(recording.vendor, sse(raw, size=size))) == recording.said


@each_vendor
async def test_comments_empty_lines_and_unknown_events_are_passed_over(recording: Recording) -> None:
    raw = b": hello\n\n\n\nretry: 3\n\n" + recording.stream
    if recording.vendor == "anthropic":
        raw = raw.replace(b"event: ping", b'event: dream\ndata: {"type": "dream"}\n\nevent: ping')
    assert heard(await streamed(recording.vendor, sse(raw))) == recording.said


def _cut_before_its_end(recording: Recording, kept: int) -> bytes:
    return on_wire(recording.vendor, recording.events[:kept], whole=False)


def _finish(recording: Recording) -> int:
    """The place of the event with the finish reason."""
    return len(recording.events) - {"openai": 2, "anthropic": 2, "google": 1}[recording.vendor]


@each_vendor
async def test_a_stream_without_a_finish_reason_is_never_whole_however_it_ends(recording: Recording) -> None:
    ends = {"openai": b"data: [DONE]\n\n", "anthropic": b'data: {"type": "message_stop"}\n\n'}
    for kept in range(_finish(recording) + 1):
        raw = _cut_before_its_end(recording, kept)
        for mark in {b"", ends.get(recording.vendor, b"")}:
            _, error = await broken(recording.vendor, sse(raw + mark))
            assert type(error) is ConnectionFailed


@each_vendor
@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_a_cut_is_a_failed_connection_and_what_was_heard_is_the_beginning(
    recording: Recording, end: Any
) -> None:
    raw = _cut_before_its_end(recording, _finish(recording))
    for size in (len(raw), len(raw) - 3, 0):
        text, error = await broken(recording.vendor, sse(raw[:size], end))
        assert type(error) is ConnectionFailed
        assert (recording.said.content or "").startswith(text)


@each_vendor
async def test_a_stream_that_falls_silent_is_timed_out_before_and_after_its_first_token(
    recording: Recording,
) -> None:
    for kept in (0, _finish(recording)):
        raw = _cut_before_its_end(recording, kept) + b": still here\n\n"
        text, error = await broken(recording.vendor, sse(raw, "stalled"))
        assert type(error) is StepTimeout
        assert (recording.said.content or "").startswith(text)
        assert bool(text) is bool(kept)


@each_vendor
async def test_a_stream_has_its_total_even_if_it_never_falls_silent(recording: Recording) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        writer.write(head + _cut_before_its_end(recording, _finish(recording)))
        part = _cut_before_its_end(recording, _finish(recording)).split(b"\n\n")[-2] + b"\n\n"
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(StepTimeout):
        await streamed(recording.vendor, endless, Limits(0.5, idle_s=0.3))


@each_vendor
@pytest.mark.parametrize("end", ["politely", "cut", "stalled", "reset"])
async def test_what_breaks_after_the_finish_reason_costs_nobody_the_answer(
    recording: Recording, end: Any
) -> None:
    raw = _cut_before_its_end(recording, _finish(recording) + 1)
    for junk in (b"", b"data: {oops\n\n"):
        said = heard(await streamed(recording.vendor, sse(raw + junk, end)))
        usage = None if recording.vendor == "openai" else recording.said.usage  # it comes after
        expected = recording.said
        assert said == Said(expected.content, expected.finish, usage, expected.reasoning)


@each_vendor
@pytest.mark.parametrize("junk", [b"{oops", b"[]", b"7", b"null", b'{"choices": 1}', b"{}", b'""'])
async def test_an_event_that_is_none_of_the_vendors_is_a_provider_error(
    recording: Recording, junk: bytes
) -> None:
    for kept in (0, _finish(recording)):
        raw = _cut_before_its_end(recording, kept) + b"data: " + junk + b"\n\n"
        _, error = await broken(recording.vendor, sse(raw))
        assert type(error) is ProviderError


@pytest.mark.parametrize(("vendor", "status", "told", "expected"), ERRORS)
async def test_an_error_has_its_name_wherever_it_is_told(
    vendor: str, status: int, told: dict[str, Any], expected: type[StepError]
) -> None:
    recording = next(r for r in TEXTS if r.vendor == vendor)
    event = on_wire(vendor, [told], whole=False)
    begun = _cut_before_its_end(recording, _finish(recording))
    errors = {
        "as the status": (await broken(vendor, http(status, told)))[1],
        "first": (await broken(vendor, sse(event)))[1],
        "in the middle": (await broken(vendor, sse(begun + event)))[1],
        "under status 200": (await broken(vendor, http(200, told)))[1],
    }
    assert {place: type(error) for place, error in errors.items()} == dict.fromkeys(errors, expected)
    async with calling(vendor, http(status, told)) as (provider, _):
        with pytest.raises(expected) as caught:
            await provider.complete(CHAT, LIMITS)
    pause = 7.5 if "RetryInfo" in json.dumps(told) else None
    assert {error.retry_after_s for error in (*errors.values(), caught.value)} == {pause}


@pytest.mark.parametrize("vendor", PROVIDERS)
@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        (http(200, b"<html>", "Content-Type: text/html"), ProviderError),
        (http(200, b""), ProviderError),
        (http(502, b"<html>"), ProviderError),
        (reset, ConnectionFailed),
        (cut, ConnectionFailed),
        (silent, StepTimeout),
    ],
)
async def test_what_is_no_stream_has_its_name_too(
    vendor: str, handle: Handle, expected: type[StepError]
) -> None:
    _, error = await broken(vendor, handle)
    assert type(error) is expected


@each_vendor
async def test_a_caller_that_leaves_ends_the_call_at_once(recording: Recording) -> None:
    raw = _cut_before_its_end(recording, _finish(recording))
    async with calling(recording.vendor, sse(raw, "stalled")) as (provider, running):
        pieces = provider.stream(CHAT, Limits(10.0))
        await anext(pieces)
        await pieces.aclose()
        await asyncio.wait_for(running.left.wait(), 1)
