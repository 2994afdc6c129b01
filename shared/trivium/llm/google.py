"""Google's Gemini API."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import ProviderError, RequestRefused
from trivium.llm.google_request import request_body
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Chat, Chunk, Completion, Json, Limits, with_usage
from trivium.llm.shapes import Pieces, completed, pieces, tool_call, unknown_end
from trivium.llm.wire import Pace, Wire, plausible

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
JSON = {"Content-Type": "application/json"}
_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_ID_CHARS = 24  # what OpenAI takes for an id of a call is 40 in all
# What is in none of these ended with no answer: MALFORMED_FUNCTION_CALL, OTHER and whatever is to come.
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_RESPONSE = {"candidates", "promptFeedback", "usageMetadata"}
_DECLINED = {
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED"),
}


class GoogleProvider:
    """Speaks `POST {base_url}/models/{model}:generateContent` and `:streamGenerateContent`."""

    def __init__(self, name: str, base_url: str, keys: KeyRing, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._wire = Wire(name, session, keys, lambda secret: {"x-goog-api-key": secret})

    async def complete(self, chat: Chat, limits: Limits) -> Completion:
        """One answer; see the Protocol."""
        body = orjson.dumps(request_body(chat))
        answer = await self._wire.ask(
            "POST",
            self._url(chat.model, "generateContent"),
            limits.total_s,
            limits.connect_s,
            model=chat.model,
            data=body,
            headers=JSON,
        )
        return completion(self.name, answer, self._wire)

    async def stream(self, chat: Chat, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The answer in pieces; see the Protocol."""
        body = orjson.dumps(request_body(chat))
        url = self._url(chat.model, "streamGenerateContent?alt=sse")
        pace = Pace(limits.idle_s)
        events = self._wire.events(url, body, limits, pace, JSON, chat.model)
        async with aclosing(pieces(self.name, events, _Events(self.name, self._wire), pace)) as made:
            async for piece in made:
                yield piece

    def _url(self, model: str, method: str) -> str:
        kind, _, own = model.partition("/")
        if kind not in ("models", "tunedModels") or not own:
            kind, own = "models", model
        return f"{self._base}/{kind}/{quote(own, safe='')}:{method}"


def completion(name: str, answer: Any, wire: Wire) -> Completion:
    """What the JSON of a response says.

    Raises:
        ProviderError: it is no response, or one without an answer that has ended.
        StepError: it is an error under status 200.
    """
    try:
        one = _Answer(answer.get("responseId"))
        delta = one.delta(answer)
        finish = one.finish(name, answer)
        usage = _usage(answer.get("usageMetadata"))
        model = str(answer.get("modelVersion") or "")
    except (KeyError, TypeError, AttributeError, ValueError):
        raise wire.told(answer) from None
    if finish is None:
        if "candidates" not in answer:
            raise with_usage(wire.told(answer), usage)
        raise with_usage(ProviderError(f"{name} answered with a candidate that has no finish reason"), usage)
    for call in delta.get("tool_calls") or []:
        del call["index"]
    return completed(one.id, model, delta, finish, usage)


class _Answer:
    """What the responses that make up one answer have said so far."""

    def __init__(self, response_id: Any) -> None:
        self.id = str(response_id or uuid4().hex)
        self._calls = 0

    def delta(self, response: Json) -> Json:
        """What is new in a response."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        candidate = (response.get("candidates") or [{}])[0]
        for part in (candidate.get("content") or {}).get("parts") or []:
            if "functionCall" in part:
                calls.append(self._call(part))
            elif isinstance(part.get("text"), str):
                (thoughts if part.get("thought") else texts).append(part["text"])
        found = {
            "content": "".join(texts),
            "reasoning_content": "".join(thoughts),
            "tool_calls": calls,
            "refusal": _declined(response),
        }
        return {key: value for key, value in found.items() if value}

    def finish(self, name: str, response: Json) -> str | None:
        """Why the answer is over, if it is.

        Raises:
            ProviderError: in a way that makes it none. RequestRefused: for what the request lacks.
        """
        if _declined(response):
            return "content_filter"
        candidate = (response.get("candidates") or [{}])[0]
        reason = candidate.get("finishReason")
        if reason in (None, "FINISH_REASON_UNSPECIFIED"):
            return None
        usage = _usage(response.get("usageMetadata"))
        if reason == "MISSING_THOUGHT_SIGNATURE":
            raise with_usage(RequestRefused(f"{name}: a call of a tool lacks its thought signature"), usage)
        if reason not in _FINISH:
            raise with_usage(unknown_end(name, reason), usage)
        return "tool_calls" if reason == "STOP" and self._calls else _FINISH[reason]

    def _call(self, part: Json) -> Json:
        given = part["functionCall"]
        # An id of ours is good for this answer alone, and the same however the answer came.
        own = f"call_{_NOT_IN_AN_ID.sub('', self.id)[-_ID_CHARS:]}_{self._calls}"
        arguments = orjson.dumps(given.get("args") or {}).decode()
        call = tool_call(given.get("id") or own, given["name"], arguments)
        if part.get("thoughtSignature"):
            call["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
        call["index"] = self._calls
        self._calls += 1
        return call


class _Events:
    """The responses of one stream; see shapes.Reader. Its end is that of the connection."""

    over = False

    def __init__(self, name: str, wire: Wire) -> None:
        self._name = name
        self._wire = wire
        self._answer: _Answer | None = None
        self._pieces = Pieces()
        self._usage: Any = None
        self._finished = False

    def read(self, data: bytes) -> list[Chunk]:
        """The pieces of a response: what is new, and the end."""
        response = self._wire.parsed(data)
        try:
            if "error" in response or not _RESPONSE & response.keys():
                raise self._wire.told(response)
            return self._read(response)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise self._wire.told(response) from None

    def rest(self) -> list[Chunk]:
        """The usage: that of the last response, as they count on."""
        usage = _usage(self._usage)
        return [self._pieces.of_usage(usage)] if usage else []

    def _read(self, response: Json) -> list[Chunk]:
        made: list[Chunk] = []
        if self._answer is None:
            self._answer = _Answer(response.get("responseId"))
            self._pieces = Pieces(self._answer.id, str(response.get("modelVersion") or ""))
            made.append(self._pieces.of({"role": "assistant", "content": ""}))
        self._usage = response.get("usageMetadata") or self._usage
        if delta := self._answer.delta(response):
            made.append(self._pieces.of(delta))
        if not self._finished and (finish := self._answer.finish(self._name, response)):
            self._finished = True
            made.append(self._pieces.of({}, finish))
        return made


def _declined(response: Json) -> str | None:
    """Why there is no answer, or not the whole of it, where a filter says so."""
    feedback = response.get("promptFeedback") or {}
    if reason := feedback.get("blockReason"):
        return str(feedback.get("blockReasonMessage") or f"the prompt was blocked: {reason}")[:300]
    candidate = (response.get("candidates") or [{}])[0]
    reason = candidate.get("finishReason")
    return str(candidate.get("finishMessage") or reason)[:300] if reason in _DECLINED else None


def _usage(raw: Any) -> Usage | None:
    """Thoughts are billed as output, but not counted among the candidates' tokens."""
    try:
        thoughts = int(raw.get("thoughtsTokenCount") or 0)
        usage = Usage(
            input=int(raw["promptTokenCount"]) + int(raw.get("toolUsePromptTokenCount") or 0),
            output=int(raw.get("candidatesTokenCount") or 0) + thoughts,
            cached_input=int(raw.get("cachedContentTokenCount") or 0),
            reasoning=thoughts,
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return plausible(usage)
