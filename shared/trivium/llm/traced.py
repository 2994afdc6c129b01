"""Calls of foundation models in traces, by the semantic conventions of generative AI.

Names and numbers only: what is said to a model and what it says stays out of them.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from trivium.domain.inference import Usage
from trivium.errors import StepError
from trivium.llm.provider import Chat, Chunk, Completion, Limits, Provider
from trivium.tracing import Attributes, Span, Value, active, call

_PROVIDERS = {"google": "gcp.gemini"}
"""What the conventions call them; by their own names, the others."""
_NUMBERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
}
_FORMATS = {"json_schema": "json", "json_object": "json", "text": "text"}


def traced(provider: Provider, base_url: str) -> Provider:
    """The provider with a span for each call; where nothing is traced, as it is."""
    return TracedProvider(provider, base_url) if active() else provider


class TracedProvider:
    """Another provider, and the spans of its calls."""

    def __init__(self, provider: Provider, base_url: str) -> None:
        self.name = provider.name
        self._provider = provider
        address = urlsplit(base_url)
        self._same: dict[str, Value | None] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDERS.get(provider.name, provider.name),
            "server.address": address.hostname,
            "server.port": address.port or {"https": 443, "http": 80}.get(address.scheme),
        }

    async def complete(self, chat: Chat, limits: Limits) -> Completion:
        """One answer; see the Protocol."""
        with call(f"chat {chat.model}") as span:
            span.set({**self._same, **_asked(chat)})
            try:
                completion = await self._provider.complete(chat, limits)
            except StepError as error:
                span.set(_billed(error.usage))
                raise
            if span.recording:
                span.set(_answered(completion))
            return completion

    def stream(self, chat: Chat, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The answer in pieces; see the Protocol."""
        # Here, where the current span is that of the attempt: a generator runs wherever it is read.
        span = call(f"chat {chat.model}")
        span.set({**self._same, **_asked(chat), "gen_ai.request.stream": True})
        return _heard(span, self._provider.stream(chat, limits))


async def _heard(span: Span, pieces: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """The pieces, and what they tell of the answer; the span ends with them."""
    started, finished, usage = time.monotonic(), None, None
    try:
        async with aclosing(pieces):
            first = True
            async for piece in pieces:
                if first:
                    first = False
                    told = {"gen_ai.response.time_to_first_chunk": time.monotonic() - started}
                    span.set({**told, **_of(piece.body)})
                finished, usage = piece.finish_reason or finished, piece.usage or usage
                yield piece
    except StepError as error:
        usage = error.usage or usage
        span.fail(error.code)
        raise
    except BaseException:  # whoever read it goes away
        span.fail("left")
        raise
    finally:
        span.set({"gen_ai.response.finish_reasons": [finished] if finished else None, **_billed(usage)})
        span.end()


def _asked(chat: Chat) -> Attributes:
    told: dict[str, Value | None] = {"gen_ai.request.model": chat.model}
    for name, attribute in _NUMBERS.items():
        value = chat.body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            told[attribute] = value
    wanted: Any = chat.body.get("response_format")
    if isinstance(wanted, dict):
        told["gen_ai.output.type"] = _FORMATS.get(str(wanted.get("type")))
    return told


def _answered(completion: Completion) -> Attributes:
    reasons = [str(choice.get("finish_reason")) for choice in completion.body["choices"]]
    told = {**_of(completion.body), "gen_ai.response.finish_reasons": reasons}
    return {**told, **_billed(completion.usage)}


def _of(body: dict[str, Any]) -> dict[str, Value | None]:
    """Whose answer it is, as whole answers and their pieces say."""
    return {
        "gen_ai.response.id": str(body["id"]) if body.get("id") else None,
        "gen_ai.response.model": str(body["model"]) if body.get("model") else None,
    }


def _billed(usage: Usage | None) -> dict[str, Value | None]:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning or None,
    }
