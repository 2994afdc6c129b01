"""What an answer says, however it came."""

import json
from dataclasses import dataclass

from trivium.domain.inference import Usage
from trivium.llm.provider import Chunk, Completion


@dataclass(frozen=True, slots=True)
class Said:
    """The sum of it."""

    content: str | None
    finish: str
    usage: Usage | None
    reasoning: str | None = None
    refusal: str | None = None
    calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and arguments, in JSON with sorted keys."""


def heard(chunks: list[Chunk]) -> Said:
    """What the pieces say together."""
    said: dict[str, str] = {}
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for key in ("content", "reasoning_content", "refusal"):
            said[key] = said.get(key, "") + (chunk.delta.get(key) or "")
        for call in chunk.delta.get("tool_calls") or []:
            made = calls.setdefault(call["index"], ["", "", ""])
            made[0] += call.get("id", "")
            made[1] += call["function"].get("name", "")
            made[2] += call["function"].get("arguments", "")
    finishes = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(finishes) == 1
    assert len(usages) <= 1
    return Said(
        said.get("content") or None,
        finishes[0],
        usages[0] if usages else None,
        said.get("reasoning_content") or None,
        said.get("refusal") or None,
        tuple((made[0], made[1], _sorted(made[2])) for _, made in sorted(calls.items())),
    )


def read(completion: Completion) -> Said:
    """What a complete answer says."""
    message = completion.message
    calls = message.get("tool_calls") or []
    return Said(
        message["content"],
        completion.finish_reason,
        completion.usage,
        message.get("reasoning_content"),
        message.get("refusal"),
        tuple((c["id"], c["function"]["name"], _sorted(c["function"]["arguments"])) for c in calls),
    )


def _sorted(arguments: str) -> str:
    return json.dumps(json.loads(arguments), sort_keys=True)
