"""Anthropic's messages."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import ProviderError
from trivium.llm.anthropic_request import request_body, trailing_space
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Chat, Chunk, Completion, Json, Limits, with_usage
from trivium.llm.shapes import Pieces, completed, pieces, tool_call, unknown_end
from trivium.llm.wire import Pace, Wire, plausible

VERSION = "2023-06-01"
JSON = {"Content-Type": "application/json"}
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Not `pause_turn`: half an answer of a tool that runs at the vendor, and none is asked for here."""


class AnthropicProvider:
    """Speaks `POST {base_url}/v1/messages`.

    A schema goes as `output_config`, cut to what the vendor can hold decoding to; models before 4.5
    refuse it. A temperature goes to models up to 4.6 only: the later ones have none.
    """

    def __init__(self, name: str, base_url: str, keys: KeyRing, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/v1/messages"
        self._wire = wire(name, keys, session)

    async def complete(self, chat: Chat, limits: Limits) -> Completion:
        """One answer; see the Protocol."""
        body = orjson.dumps(request_body(chat))
        answer = await self._wire.ask(
            "POST", self._url, limits.total_s, limits.connect_s, model=chat.model, data=body, headers=JSON
        )
        made = completion(self.name, answer, self._wire)
        if made.message["content"]:
            made.message["content"] = made.message["content"].removeprefix(trailing_space(chat))
        return made

    async def stream(self, chat: Chat, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The answer in pieces; see the Protocol."""
        body = orjson.dumps({**request_body(chat), "stream": True})
        pace = Pace(limits.idle_s)
        reader = _Events(self.name, self._wire, trailing_space(chat))
        events = self._wire.events(self._url, body, limits, pace, JSON, chat.model)
        async with aclosing(pieces(self.name, events, reader, pace)) as made:
            async for piece in made:
                yield piece


def wire(name: str, keys: KeyRing, session: aiohttp.ClientSession) -> Wire:
    """Calls with a key, if there is one; no redirect takes it elsewhere."""
    return Wire(name, session, keys, lambda secret: {"x-api-key": secret}, {"anthropic-version": VERSION})


def completion(name: str, answer: Any, wire: Wire) -> Completion:
    """What the JSON of a message says.

    Raises:
        ProviderError: it is no message, or one that has not ended.
        StepError: it is an error under status 200.
    """
    try:
        stop, blocks, usage = answer["stop_reason"], answer["content"], _usage(answer.get("usage"))
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
        calls = [
            tool_call(block["id"], block["name"], orjson.dumps(block["input"]).decode())
            for block in blocks
            if block["type"] == "tool_use"
        ]
        message = {
            "content": "".join(texts),
            "reasoning_content": "".join(thoughts),
            "tool_calls": calls,
            "refusal": _why(answer) if stop == "refusal" else None,
        }
    except (KeyError, TypeError, AttributeError):
        raise wire.told(answer) from None
    finish = _finish(name, stop, usage)
    return completed(str(answer.get("id") or ""), str(answer.get("model") or ""), message, finish, usage)


class _Events:
    """The events of one stream, from `message_start` to `message_stop`; see shapes.Reader.

    `owed` is white space that the vendor did not take at the end of what it goes on from: where the answer
    begins with it, it was said already.
    """

    def __init__(self, name: str, wire: Wire, owed: str) -> None:
        self.over = False
        self._name = name
        self._wire = wire
        self._owed = owed
        self._begun = ""
        self._pieces = Pieces()
        self._usage: Json = {}
        self._calls: dict[int, int] = {}
        self._input: Json | None = None

    def read(self, data: bytes) -> list[Chunk]:
        """The pieces of an event; kinds that are not known are passed over, as the vendor asks."""
        event = self._wire.parsed(data)
        try:
            return list(self._read(event))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise self._wire.told(event) from None

    def rest(self) -> list[Chunk]:
        """The usage."""
        usage = _usage(self._usage)
        return [self._pieces.of_usage(usage)] if usage else []

    def _read(self, event: Json) -> Iterator[Chunk]:
        match event["type"]:
            case "message_start":
                message = event["message"]
                self._pieces = Pieces(message["id"], message["model"])
                self._usage = dict(message.get("usage") or {})
                yield self._pieces.of({"role": "assistant", "content": ""})
            case "content_block_start":
                yield from self._block(event["index"], event["content_block"])
            case "content_block_delta":
                yield from self._delta(event["index"], event["delta"])
            case "content_block_stop" if self._input is not None:
                # A tool that is called without arguments has no delta.
                whole, self._input = orjson.dumps(self._input).decode(), None
                yield self._arguments(event["index"], whole)
            case "message_delta":
                self._usage |= {key: n for key, n in (event.get("usage") or {}).items() if n is not None}
                if stop := event["delta"].get("stop_reason"):
                    yield from self._end(stop, event["delta"])
            case "message_stop":
                self.over = True
            case "error":
                raise self._wire.told(event)

    def _block(self, index: int, block: Json) -> Iterator[Chunk]:
        if block["type"] == "text":
            yield from self._text(block["text"])
        elif block["type"] == "tool_use":
            place = self._calls[index] = len(self._calls)
            self._input = block["input"]
            yield self._pieces.of_call(place, tool_call(block["id"], block["name"], ""))

    def _delta(self, index: int, delta: Json) -> Iterator[Chunk]:
        match delta["type"]:
            case "text_delta":
                yield from self._text(delta["text"])
            case "thinking_delta":
                yield self._pieces.of({"reasoning_content": delta["thinking"]})
            case "input_json_delta" if delta["partial_json"] and index in self._calls:
                self._input = None
                yield self._arguments(index, delta["partial_json"])

    def _text(self, text: str) -> Iterator[Chunk]:
        if self._owed:
            self._begun += text
            if self._owed.startswith(self._begun) and self._begun != self._owed:
                return
            text, self._owed, self._begun = self._begun.removeprefix(self._owed), "", ""
        if text:
            yield self._pieces.of({"content": text})

    def _arguments(self, index: int, text: str) -> Chunk:
        return self._pieces.of_call(self._calls[index], {"function": {"arguments": text}})

    def _end(self, stop: str, delta: Json) -> Iterator[Chunk]:
        finish = _finish(self._name, stop, _usage(self._usage))
        if self._begun:
            yield self._pieces.of({"content": self._begun})
        yield self._pieces.of({"refusal": _why(delta)} if stop == "refusal" else {}, finish)


def _finish(name: str, stop: Any, usage: Usage | None) -> str:
    if stop is None:
        raise with_usage(ProviderError(f"{name} answered with a message that has no stop reason"), usage)
    if stop not in _FINISH:
        raise with_usage(unknown_end(name, stop), usage)
    return _FINISH[stop]


def _why(answer: Json) -> str:
    details = answer.get("stop_details")
    given = details.get("explanation") or details.get("category") if isinstance(details, dict) else None
    return str(given or "no reason given")[:300]


def _usage(raw: Any) -> Usage | None:
    """`input_tokens` leaves out what the prompt cache read or wrote."""
    try:
        cached = int(raw.get("cache_read_input_tokens") or 0)
        written = int(raw.get("cache_creation_input_tokens") or 0)
        fresh = int(raw["input_tokens"])
        details = raw.get("output_tokens_details") or {}
        usage = Usage(
            input=fresh + cached + written,
            output=int(raw["output_tokens"]),
            cached_input=cached,
            cache_write=written,
            reasoning=int(details.get("thinking_tokens") or 0),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return plausible(usage) if fresh >= 0 else None
