"""A feature asked by a chat: its prompt, variant, flags, fallback and recording for any OpenAI SDK."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import Response

from gateway.routes.openai_stream import EventStream
from gateway.state import GatewayState
from trivium.domain.inference import Inference, Question, Subject
from trivium.errors import FieldFault, InvalidRequest
from trivium.features import Feature
from trivium.llm.provider import Json
from trivium.store.keys import Key


async def answer_feature(
    state: GatewayState,
    name: str,
    body: Json,
    key: Key,
    subject_id: str,
    deadline_ms: int | None,
    *,
    fresh: bool,
) -> Response:
    """Answers the last message of a chat by a feature; the output is the answer's content, as JSON.

    Raises:
        NotFound: there is no such feature. InvalidRequest: the message is not its input.
    """
    feature = state.catalogue.get(name)
    question = Question(_input_of(feature, body), _entity_key(body))
    subject = Subject(subject_id)
    made = await state.serving.serve(name, question, subject, key, deadline_ms, fresh=fresh)
    usage = made.usage
    completion: Json = {
        "id": f"chatcmpl-{made.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": made.served_by.model or f"feature/{name}",
        "choices": [{"index": 0, "message": _message(made), "finish_reason": "stop", "logprobs": None}],
        "usage": {
            "prompt_tokens": usage.input if usage else 0,
            "completion_tokens": usage.output if usage else 0,
            "total_tokens": usage.input + usage.output if usage else 0,
        },
    }
    headers = _headers(made)
    if body.get("stream"):
        return EventStream(_events(completion, body), headers)
    return Response(orjson.dumps(completion), 200, headers, "application/json")


def _message(made: Inference) -> Json:
    return {"role": "assistant", "content": orjson.dumps(made.answer.output).decode(), "refusal": None}


def _headers(made: Inference) -> dict[str, str]:
    spent_ms = sum(attempt.latency_ms for attempt in made.attempts)
    headers = {
        "X-Trivium-Inference-Id": made.id,
        "X-Trivium-Overhead-Ms": f"{max(0.0, made.latency_ms - spent_ms):.2f}",
        "X-Trivium-Degraded": "true" if made.degraded else "false",
        "X-Trivium-Deadline-Ms": str(made.deadline_ms),
        "X-Trivium-Deadline-Left-Ms": f"{max(0.0, made.deadline_ms - made.latency_ms):.0f}",
        "X-Trivium-Arm": made.arm.value,
    }
    if made.cost_usd is not None:
        headers["X-Trivium-Cost-Usd"] = f"{made.cost_usd:.9f}".rstrip("0").rstrip(".")
    return headers


async def _events(completion: Json, body: Json) -> AsyncGenerator[bytes, None]:
    """An output is checked as a whole, so it comes as a whole."""
    (choice,) = completion["choices"]
    same = {name: completion[name] for name in ("id", "created", "model")}
    same["object"] = "chat.completion.chunk"
    delta = {"index": 0, "delta": choice["message"], "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    pieces: list[Json] = [{**same, "choices": [delta]}, {**same, "choices": [end]}]
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        pieces.append({**same, "choices": [], "usage": completion["usage"]})
    for piece in pieces:
        yield b"data: " + orjson.dumps(piece) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _input_of(feature: Feature, body: Json) -> dict[str, Any]:
    """The last message as the feature's input: a JSON object, or the text of its one required property."""
    text = _text(body["messages"][-1])
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        given = None
    if isinstance(given, dict):
        return given
    schema = feature.manifest.input
    required = schema.get("required") or []
    properties = schema.get("properties") or {}
    if len(required) == 1 and (properties.get(required[0]) or {}).get("type") == "string":
        return {required[0]: text}
    if not required and not text.strip():
        return {}
    message = f"must be a JSON object with the feature's input: {', '.join(properties) or 'no properties'}"
    raise InvalidRequest(f"messages[-1].content {message}", errors=(FieldFault("messages", message, text),))


def _text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if parts and len(texts) == len(parts) and all(isinstance(text, str) for text in texts):
        return "".join(str(text) for text in texts)
    told = "must be text: a feature takes nothing else"
    raise InvalidRequest(f"messages[-1].content {told}", errors=(FieldFault("messages", told, content),))


def _entity_key(body: Json) -> str | None:
    metadata = body.get("metadata")
    key = metadata.get("entity_key") if isinstance(metadata, dict) else None
    return key[:512] if isinstance(key, str) and key else None
