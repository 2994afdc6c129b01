"""OpenAI's chat completions: OpenAI itself, and every self-hosted server that speaks its wire."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import ProviderError
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Chat, Chunk, Completion, Limits
from trivium.llm.shapes import pieces
from trivium.llm.wire import MAX_MODEL_CHARS, Pace, Wire, plausible

JSON = {"Content-Type": "application/json"}
DONE = b"[DONE]"
EXTRA = {"reasoning_content", "extra_content"}
"""What answers of other vendors have besides OpenAI's fields, and what comes back with the conversation."""


class OpenAIProvider:
    """Speaks `POST {base_url}/chat/completions`."""

    def __init__(self, name: str, base_url: str, keys: KeyRing, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._wire = wire(name, keys, session)

    async def complete(self, chat: Chat, limits: Limits) -> Completion:
        """One answer; see the Protocol."""
        body = orjson.dumps(request_body(self.name, chat))
        answer = await self._wire.ask(
            "POST", self._url, limits.total_s, limits.connect_s, model=chat.model, data=body, headers=JSON
        )
        return completion(self.name, answer, self._wire)

    async def stream(self, chat: Chat, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The answer in pieces; see the Protocol."""
        asked = request_body(self.name, chat)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        pace = Pace(limits.idle_s)
        body = orjson.dumps(asked)
        events = self._wire.events(self._url, body, limits, pace, JSON, chat.model)
        async with aclosing(pieces(self.name, events, _Reader(self.name, self._wire), pace)) as found:
            async for piece in found:
                yield piece


class _Reader:
    """Reads the events of one stream."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.over = False
        self._name = name
        self._wire = wire

    def read(self, data: bytes) -> tuple[Chunk, ...]:
        """The piece of an event; none after the last."""
        if data == DONE or self.over:
            self.over = True
            return ()
        return (chunk(self._name, self._wire.parsed(data), self._wire),)

    def rest(self) -> tuple[Chunk, ...]:
        """The usage came with the events."""
        return ()


def wire(name: str, keys: KeyRing, session: aiohttp.ClientSession, *, redirects: bool = False) -> Wire:
    """Calls with a key, if there is one; `redirects` for files, which stand elsewhere."""
    return Wire(name, session, keys, redirects=redirects)


def request_body(name: str, chat: Chat) -> dict[str, Any]:
    """What `POST /chat/completions` takes; OpenAI calls the limit of tokens by another name than others."""
    body = {**chat.body, "model": chat.model}
    theirs, other = "max_completion_tokens", "max_tokens"
    if name != "openai":
        theirs, other = other, theirs
    if other in body and theirs not in body:
        body[theirs] = body.pop(other)
    if name == "openai" and any(EXTRA & message.keys() for message in body["messages"]):
        body["messages"] = [
            {key: value for key, value in message.items() if key not in EXTRA} for message in body["messages"]
        ]
    return body


def completion(name: str, answer: Any, wire: Wire) -> Completion:
    """What the JSON of an answer says.

    Raises:
        ProviderError: it is no completion, or one without a finish reason.
        StepError: it is an error under status 200.
    """
    try:
        choice = answer["choices"][0]
        whole = isinstance(choice["message"], dict) and isinstance(choice["finish_reason"], str)
    except (KeyError, IndexError, TypeError):
        raise wire.told(answer) from None
    if not whole:
        raise ProviderError(f"{name} answered with a completion that has no finish reason")
    return Completion(answer, _model(answer), usage_of(answer.get("usage")))


def chunk(name: str, piece: Any, wire: Wire) -> Chunk:
    """What the JSON of an event says; raises as `completion` does."""
    try:
        choices = piece["choices"]
        whole = all(isinstance(c["delta"], dict) for c in choices)
    except (KeyError, TypeError):
        raise wire.told(piece) from None
    if not whole or not isinstance(choices, list):
        raise ProviderError(f"{name} sent something else than a piece of a completion")
    usage = piece.get("usage")
    return Chunk(piece, usage_of(usage) if usage else None)


def _model(answer: dict[str, Any]) -> str:
    return str(answer.get("model") or "")[:MAX_MODEL_CHARS]


def usage_of(raw: Any) -> Usage | None:
    """The tokens that an answer was billed for; None where it does not say, or says what cannot be true."""
    try:
        prompt = raw.get("prompt_tokens_details") or {}
        completion = raw.get("completion_tokens_details") or {}
        usage = Usage(
            input=int(raw["prompt_tokens"]),
            output=int(raw["completion_tokens"]),
            cached_input=int(prompt.get("cached_tokens") or 0),
            reasoning=int(completion.get("reasoning_tokens") or 0),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return plausible(usage)
