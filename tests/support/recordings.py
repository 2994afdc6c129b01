"""Answers of the three vendors in the shapes that they document, complete and streamed, and what they say."""

import json
from dataclasses import dataclass
from typing import Any

from support.answers import Said
from trivium.domain.inference import Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer of a vendor, both ways."""

    vendor: str
    name: str
    answer: Json
    events: list[Json]
    said: Said

    @property
    def stream(self) -> bytes:
        """The events as the vendor sends them."""
        return on_wire(self.vendor, self.events)


def on_wire(vendor: str, events: list[Json], *, whole: bool = True) -> bytes:
    """Events on the wire of a vendor, with its mark of the end if they are the whole."""
    parts = []
    for event in events:
        name = f"event: {event['type']}\n" if vendor == "anthropic" else ""
        parts.append(f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n")
    if whole and vendor == "openai":
        parts.append("data: [DONE]\n\n")
    return "".join(parts).encode()


# OpenAI

_OPENAI_USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def _openai(name: str, message: Json, deltas: list[Json], finish: str, said: Said) -> Recording:
    head: Json = {"id": "chatcmpl-1", "created": 1_780_000_000, "model": "gpt-5-mini-2026"}
    choice = {"index": 0, "logprobs": None, "finish_reason": finish}
    answer = {
        **head,
        "object": "chat.completion",
        "choices": [
            {**choice, "message": {"role": "assistant", "content": None, "refusal": None, **message}}
        ],
        "usage": _OPENAI_USAGE,
    }
    pieces: list[tuple[Json, str | None]] = [({"role": "assistant", "content": ""}, None)]
    pieces += [(delta, None) for delta in deltas] + [({}, finish)]
    piece = {**head, "object": "chat.completion.chunk", "usage": None}
    events: list[Json] = [
        {**piece, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in pieces
    ]
    return Recording(
        "openai", name, answer, [*events, {**piece, "choices": [], "usage": _OPENAI_USAGE}], said
    )


def _openai_all() -> list[Recording]:
    usage = Usage(9, 5, 4, reasoning=2)
    calls = [("call_a", "weather", '{"city": "Oslo"}'), ("call_b", "now", "{}")]
    message_calls = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls
    ]
    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    second = {"index": 1, "id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in ('{"ci', 'ty": "Oslo"}')]
    deltas: list[Json] = [{"tool_calls": [call]} for call in (first, *rest, second)]
    text: list[Json] = [{"content": part} for part in ("Grü", "ße, ", "world")]
    declined: list[Json] = [{"refusal": part} for part in ("I can't ", "do that.")]
    no = "I can't do that."
    return [
        _openai("text", {"content": "Grüße, world"}, text, "stop", Said("Grüße, world", "stop", usage)),
        _openai("length", {"content": "Grüße, world"}, text, "length", Said("Grüße, world", "length", usage)),
        _openai("refusal", {"refusal": no}, declined, "stop", Said(None, "stop", usage, refusal=no)),
        _openai(
            "tools",
            {"tool_calls": message_calls},
            deltas,
            "tool_calls",
            Said(None, "tool_calls", usage, calls=tuple(calls)),
        ),
    ]


# Anthropic

_ANTHROPIC_USAGE = {
    "input_tokens": 4,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 2,
    "output_tokens": 5,
    "output_tokens_details": {"thinking_tokens": 2},
}


def _anthropic(
    name: str, blocks: list[tuple[Json, list[Json]]], stop: str, said: Said, why: Json | None = None
) -> Recording:
    """A block stands beside the deltas that it comes in."""
    message: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5"}
    answer = {
        **message,
        "content": [block for block, _ in blocks],
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": why,
        "usage": _ANTHROPIC_USAGE,
    }
    begun = {key: n for key, n in _ANTHROPIC_USAGE.items() if key != "output_tokens_details"}
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[Json] = [
        {"type": "message_start", "message": {**start, "usage": {**begun, "output_tokens": 1}}},
        {"type": "ping"},
    ]
    empty: Json = {"text": "", "thinking": "", "signature": "", "input": {}}
    for index, (block, deltas) in enumerate(blocks):
        opened = {key: empty.get(key, value) for key, value in block.items()}
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    usage = {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}}
    delta = {"stop_reason": stop, "stop_sequence": None, "stop_details": why}
    events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return Recording("anthropic", name, answer, events, said)


def _anthropic_all() -> list[Recording]:
    usage = Usage(9, 5, 3, 2, 2)
    thinking: tuple[Json, list[Json]] = (
        {"type": "thinking", "thinking": "hm, so", "signature": "sig"},
        [
            {"type": "thinking_delta", "thinking": "hm, "},
            {"type": "thinking_delta", "thinking": "so"},
            {"type": "signature_delta", "signature": "sig"},
        ],
    )
    text: tuple[Json, list[Json]] = (
        {"type": "text", "text": "Grüße, world"},
        [{"type": "text_delta", "text": part} for part in ("Grü", "ße, ", "world")],
    )
    weather: tuple[Json, list[Json]] = (
        {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "Oslo"}},
        [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"ci', 'ty": "Oslo"}')],
    )
    now: tuple[Json, list[Json]] = ({"type": "tool_use", "id": "toolu_b", "name": "now", "input": {}}, [])
    calls = (("toolu_a", "weather", '{"city": "Oslo"}'), ("toolu_b", "now", "{}"))
    why = {"type": "refusal", "category": "bio", "explanation": "it is against the policy"}
    said, thought = "Grüße, world", "hm, so"
    return [
        _anthropic("text", [thinking, text], "end_turn", Said(said, "stop", usage, thought)),
        _anthropic("length", [text], "max_tokens", Said(said, "length", usage)),
        _anthropic(
            "refusal", [], "refusal", Said(None, "content_filter", usage, refusal=why["explanation"]), why
        ),
        _anthropic(
            "refusal in the middle",
            [text],
            "refusal",
            Said(said, "content_filter", usage, refusal="no reason given"),
        ),
        _anthropic("tools", [text, weather, now], "tool_use", Said(said, "tool_calls", usage, calls=calls)),
    ]


# Google

_GOOGLE_USAGE = {
    "promptTokenCount": 9,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 2,
    "totalTokenCount": 14,
}


def _google(name: str, streamed: list[list[Json]], whole: list[Json], finish: str, said: Said) -> Recording:
    """`streamed`: the parts of each response; the last one has the finish reason."""
    head: Json = {"modelVersion": "gemini-3-flash", "responseId": "mAit_aLm-kHP"}

    def response(parts: list[Json], end: str | None, usage: Json) -> Json:
        candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if not parts:
            candidate = {"index": 0}
        if end:
            candidate["finishReason"] = end
        return {"candidates": [candidate], "usageMetadata": usage, **head}

    *some, last = streamed
    before = {"promptTokenCount": 9, "totalTokenCount": 9}
    events = [response(parts, None, before) for parts in some] + [response(last, finish, _GOOGLE_USAGE)]
    return Recording("google", name, response(whole, finish, _GOOGLE_USAGE), events, said)


def _google_all() -> list[Recording]:
    usage = Usage(9, 5, 4, reasoning=2)
    thought: list[Json] = [{"text": part, "thought": True} for part in ("hm, ", "so")]
    text: list[Json] = [{"text": part} for part in ("Grü", "ße, ", "world")]
    signed: Json = {
        "functionCall": {"name": "weather", "args": {"city": "Oslo"}},
        "thoughtSignature": "c2lnbmVk",
    }
    now: Json = {"functionCall": {"name": "now", "args": {}, "id": "given"}}
    calls = (("call_mAit_aLm-kHP_0", "weather", '{"city": "Oslo"}'), ("given", "now", "{}"))
    said = "Grüße, world"
    blocked: Json = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
        "modelVersion": "gemini-3-flash",
        "responseId": "mAit_aLm-kHP",
    }
    refused = "the prompt was blocked: PROHIBITED_CONTENT"
    no_output = Said(None, "content_filter", Usage(9, 0), refusal=refused)
    parts = [[part] for part in text]
    whole = [{"text": said}]
    return [
        _google(
            "text",
            [*([t] for t in thought), *parts],
            [{"text": "hm, so", "thought": True}, *whole],
            "STOP",
            Said(said, "stop", usage, "hm, so"),
        ),
        _google("length", parts, whole, "MAX_TOKENS", Said(said, "length", usage)),
        _google(
            "refusal in the middle",
            [*parts, []],
            whole,
            "SAFETY",
            Said(said, "content_filter", usage, refusal="SAFETY"),
        ),
        _google(
            "tools",
            [[signed], [now], []],
            [signed, now],
            "STOP",
            Said(None, "tool_calls", usage, calls=calls),
        ),
        Recording("google", "refusal", blocked, [blocked], no_output),
    ]


RECORDINGS = [*_openai_all(), *_anthropic_all(), *_google_all()]
