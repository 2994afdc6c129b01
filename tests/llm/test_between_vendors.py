"""Conversations that go from one vendor to another, answers of every make, and connections that last."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from google.genai import types
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from support.answers import heard, read
from support.recordings import RECORDINGS, Recording, on_wire
from support.sdk_types import conforms
from support.sockets import http, socket, sse
from trivium.llm import anthropic_request, google_request
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.google import GoogleProvider
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import OpenAIProvider
from trivium.llm.provider import Chat, Json, Limits, Provider

CHAT = Chat("m", {"messages": [{"role": "user", "content": "hi"}]})
LIMITS = Limits(5.0)
PROVIDERS: dict[str, Callable[..., Provider]] = {
    "openai": OpenAIProvider,
    "anthropic": AnthropicProvider,
    "google": GoogleProvider,
}


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: f"{r.vendor}: {r.name}")
async def test_what_one_vendor_answered_can_be_sent_to_any_other(recording: Recording) -> None:
    async with socket(http(200, recording.answer)) as running, aiohttp.ClientSession() as session:
        one = PROVIDERS[recording.vendor](recording.vendor, running.url, KeyRing(), session)
        said = (await one.complete(CHAT, LIMITS)).message
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "7"} for call in said.get("tool_calls") or []
    ]
    tools = [{"type": "function", "function": {"name": name}} for name in ("weather", "now")]
    asked: Json = {"messages": [*CHAT.body["messages"], said, *results, *CHAT.body["messages"]]}
    asked["tools"] = tools
    conforms(CompletionCreateParamsNonStreaming, {"model": "m", **asked})
    ours = anthropic_request.request_body(Chat("claude-haiku-5-5", asked))
    conforms(MessageCreateParamsNonStreaming, ours)
    theirs = google_request.request_body(Chat("gemini-3-flash", asked))
    TypeAdapter(list[types.Content]).validate_python(theirs["contents"])
    assert "".join(_texts(ours["messages"])) == "".join(_texts(theirs["contents"]))
    for turns in (ours["messages"], theirs["contents"]):
        assert len(turns) == 3


def _texts(turns: list[Json]) -> list[str]:
    contents = [turn.get("content", turn.get("parts")) for turn in turns]
    return [
        part.get("text", "") for c in contents for part in ([{"text": c}] if isinstance(c, str) else c or [])
    ]


def _cut_up(chance: random.Random, text: str) -> list[str]:
    places = sorted(chance.choices(range(len(text) + 1), k=chance.randrange(4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def _words(chance: random.Random) -> str:
    return "".join(chance.choices(["a", " ", "\n", "ü", "😀", '"', "\\", "data: ", "\r\n", "{"], k=9))


def _of_anthropic(chance: random.Random) -> Recording:
    message: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": None}
    events: list[Json] = [{"type": "message_start", "message": {**message, "content": []}}]
    content: list[Json] = []
    for index in range(chance.randrange(1, 6)):
        kind = chance.choice(["text", "thinking", "tool_use"])
        if kind == "tool_use":
            given = {_words(chance): _words(chance) for _ in range(chance.randrange(3))}
            content.append({"type": kind, "id": f"toolu_{index}", "name": "now", "input": given})
            empty: Json = {"input": {}}
            name, key = "input_json_delta", "partial_json"
            parts = _cut_up(chance, json.dumps(given)) if given else []
        else:
            content.append({"type": kind, kind: _words(chance)})
            empty, name, key = {kind: ""}, f"{kind}_delta", kind
            parts = _cut_up(chance, content[-1][kind])
        start = {**content[-1], **empty}
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        for part in parts:
            delta = {"type": name, key: part}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    stop = chance.choice(["end_turn", "max_tokens", "tool_use", "refusal", "stop_sequence"])
    usage = {"input_tokens": 3, "output_tokens": 4}
    end = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage}
    answer = {**message, "content": content, "stop_reason": stop, "usage": usage}
    return Recording("anthropic", "random", answer, [*events, end, {"type": "message_stop"}], NOTHING)


def _of_google(chance: random.Random) -> Recording:
    whole: list[Json] = []
    streamed: list[list[Json]] = []
    for _ in range(chance.randrange(1, 6)):
        kind = chance.choice(["text", "thought", "call"])
        if kind == "call":
            call = {"functionCall": {"name": "now", "args": {"a": _words(chance)}}}
            whole.append(call)
            streamed.append([call])
        else:
            text, mark = _words(chance), {"thought": True} if kind == "thought" else {}
            whole.append({"text": text, **mark})
            streamed += [[{"text": part, **mark}] for part in _cut_up(chance, text)]
    reason = chance.choice(["STOP", "MAX_TOKENS", "SAFETY"])
    head = {"responseId": "r", "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}}
    bodies = [{"candidates": [{"content": {"parts": parts}}], **head} for parts in [whole, *streamed]]
    answer, *events = bodies
    for last in (answer, events[-1]):
        last["candidates"][0]["finishReason"] = reason  # type: ignore[index]
    return Recording("google", "random", answer, events, NOTHING)


NOTHING: Any = None


@pytest.mark.parametrize("make", [_of_anthropic, _of_google])
async def test_any_answer_says_the_same_streamed_and_complete(
    make: Callable[[random.Random], Recording],
) -> None:
    chance = random.Random(20)
    made = [make(chance) for _ in range(60)]
    handles = [
        handle
        for recording in made
        for handle in (
            http(200, recording.answer),
            sse(recording.stream, size=chance.randrange(1, 400)),
            sse(on_wire(recording.vendor, recording.events).replace(b"\n", b"\r\n"), size=50),
        )
    ]
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        one = PROVIDERS[made[0].vendor](made[0].vendor, running.url, KeyRing(), session)
        for _ in made:
            whole = read(await one.complete(CHAT, LIMITS))
            for _ in range(2):
                async with aclosing(one.stream(CHAT, LIMITS)) as pieces:
                    said = heard([piece async for piece in pieces])
                assert (said.content or "", said.reasoning or "") == (
                    whole.content or "",
                    whole.reasoning or "",
                )
                assert (said.calls, said.finish, said.refusal, said.usage) == (
                    whole.calls,
                    whole.finish,
                    whole.refusal,
                    whole.usage,
                )


@pytest.mark.parametrize("vendor", ["anthropic", "google"])
async def test_the_connection_of_a_stream_is_used_again_even_if_its_last_bytes_come_late(vendor: str) -> None:
    recording = next(r for r in RECORDINGS if r.vendor == vendor)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
                raw = recording.stream
                start = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
                writer.write("\r\n".join([*start, "", f"{len(raw):x}\r\n"]).encode() + raw)
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.write(b"\r\n0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession() as session:
        one = PROVIDERS[vendor](vendor, url, KeyRing(), session)
        for _ in range(3):
            async with aclosing(one.stream(CHAT, LIMITS)) as pieces:
                assert heard([piece async for piece in pieces]) == recording.said
    assert connections == 1
