"""Anthropic's messages."""

import re
from typing import Any

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import ProviderError, RequestRefused
from trivium.llm.provider import Completion, CompletionRequest, with_usage
from trivium.llm.wire import MAX_MODEL_CHARS, Wire, plausible

VERSION = "2023-06-01"
JSON = {"Content-Type": "application/json"}

# Models after 4.6 answer 400 to a temperature, and none to come takes one: this list is closed.
_TAKES_TEMPERATURE = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8})?$)")

# The subset of JSON Schema that structured outputs take, as the vendor's own SDK cuts it out.
_KEYWORDS = {"$ref", "const", "description", "enum", "required", "title", "type"}
_FORMATS = {
    *("date", "date-time", "duration", "email", "hostname"),
    *("ipv4", "ipv6", "time", "uri", "uuid"),
}
_NOT_FOR_MODELS = {"$comment", "$id", "$schema", "additionalProperties"}


class AnthropicProvider:
    """Speaks `POST {base_url}/v1/messages`.

    A schema goes as `output_config`, cut to what the vendor can hold decoding to; models before 4.5
    refuse it. A temperature goes to models up to 4.6 only: the later ones have none.
    """

    def __init__(self, name: str, base_url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/v1/messages"
        self._wire = wire(name, api_key, session)

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """One answer; see the Protocol."""
        body = orjson.dumps(request_body(request))
        return completion(
            self.name, await self._wire.ask("POST", self._url, timeout_s, data=body, headers=JSON)
        )


def wire(name: str, api_key: str | None, session: aiohttp.ClientSession) -> Wire:
    """Calls with the key, if there is one; no redirect takes it elsewhere."""
    headers = {"anthropic-version": VERSION}
    if api_key:
        headers["x-api-key"] = api_key
    return Wire(name, session, headers, secret=api_key, redirects=False)


def request_body(request: CompletionRequest) -> dict[str, Any]:
    """What `POST /v1/messages` takes; the system messages are put together."""
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"],
    }
    system = "\n\n".join(m.content for m in request.messages if m.role == "system")
    if system:
        body["system"] = system
    if _TAKES_TEMPERATURE.match(request.model):
        body["temperature"] = request.temperature
    if request.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": decodable(request.schema)}}
    return body


def decodable(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a JSON Schema that decoding can be held to; the rest is told to the model in words.

    The vendor refuses a schema with more. Whoever asks checks the answer against the whole of it.
    """
    kept: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: _decodable(part) for name, part in value.items()}
        elif key in ("anyOf", "allOf", "oneOf"):
            kept["anyOf" if key == "oneOf" else key] = [_decodable(part) for part in value]
        elif key == "items":
            kept[key] = _decodable(value)
        elif (
            key in _KEYWORDS
            or (key == "format" and value in _FORMATS)
            or (key == "minItems" and value in (0, 1))
        ):
            kept[key] = value
        elif key not in _NOT_FOR_MODELS:
            told[key] = value
    if kept.get("type") == "object":
        kept["additionalProperties"] = False
    if told:
        limits = "{" + ", ".join(f"{key}: {value}" for key, value in told.items()) + "}"
        kept["description"] = "\n\n".join(filter(None, (kept.get("description"), limits)))
    return kept


def _decodable(part: Any) -> Any:
    return decodable(part) if isinstance(part, dict) else part


def completion(name: str, answer: Any) -> Completion:
    """What the JSON of a message says; of its blocks the text counts.

    Raises:
        RequestRefused: the model declined.
        ProviderError: it was cut, has no text, or is no message.
    """
    try:
        stop = answer["stop_reason"]
        text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")
        usage = _usage(answer.get("usage"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ProviderError(f"{name} answered with something else than a message") from error
    if stop in ("max_tokens", "model_context_window_exceeded"):
        raise with_usage(ProviderError(f"{name} was cut at the token limit"), usage)
    if stop == "refusal":
        raise with_usage(RequestRefused(f"{name} declined: {_why(answer)}"), usage)
    if stop not in ("end_turn", "stop_sequence", "tool_use"):
        raise with_usage(ProviderError(f"{name} ended with {stop!r}"), usage)
    if not text:
        raise with_usage(ProviderError(f"{name} answered without text"), usage)
    return Completion(text, str(answer.get("model") or "")[:MAX_MODEL_CHARS], usage)


def _why(answer: dict[str, Any]) -> str:
    details = answer.get("stop_details")
    given = details.get("explanation") or details.get("category") if isinstance(details, dict) else None
    return str(given or "no reason given")[:300]


def _usage(raw: Any) -> Usage | None:
    """`input_tokens` leaves out what the prompt cache read or wrote."""
    try:
        cached = int(raw.get("cache_read_input_tokens") or 0)
        written = int(raw.get("cache_creation_input_tokens") or 0)
        fresh = int(raw["input_tokens"])
        usage = Usage(input=fresh + cached + written, output=int(raw["output_tokens"]), cached_input=cached)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return plausible(usage) if fresh >= 0 and written >= 0 else None
