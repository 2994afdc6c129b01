"""Chat completions for wires of another shape: what a request says, and how answers and pieces are made."""

import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import orjson

from trivium.domain.inference import Usage
from trivium.errors import ConnectionFailed, ParameterUnsupported, ProviderError, RequestRefused, StepError
from trivium.llm.provider import Chunk, Completion, Json
from trivium.llm.wire import MAX_MODEL_CHARS, TRAILING_S, Pace

DRAINING_S = 0.05
"""How long a connection may take from the end of a stream to its own."""
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w-]+=[\w.-]+)*;base64,(.*)", re.DOTALL)
_MEDIA_TYPES = {"image/jpg": "image/jpeg"}  # what many say and no vendor takes
# What only OpenAI has and what would be missed in the answer, with the values that ask for nothing.
_NOWHERE_ELSE: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "audio": (),
    "modalities": ([], ["text"]),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "web_search_options": (),
    "moderation": (),
}


# What is asked.


def not_taken(name: str, parameter: str, value: Any) -> ParameterUnsupported:
    """The refusal of a parameter that the vendor has nothing for."""
    return ParameterUnsupported(f"{name} does not take {parameter} = {str(value)[:100]!r}")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What has not the shape of a chat, such as a message without a role, is refused."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RequestRefused(f"{name}: this is not the shape of a chat completion: {error!r}") from error


def refuse_what_is_openais(name: str, body: Mapping[str, Any], *others: str) -> None:
    """Raises RequestRefused for what would be missed in the answer; of `others`, 0 and None are nothing."""
    for parameter, nothing in [*_NOWHERE_ELSE.items(), *((other, (0,)) for other in others)]:
        value = body.get(parameter)
        if value is not None and value not in nothing:
            raise not_taken(name, parameter, value)


def most_tokens(body: Mapping[str, Any]) -> int | None:
    """How long the answer may be."""
    given = body.get("max_completion_tokens") or body.get("max_tokens")
    return None if given is None else int(given)


def stops(body: Mapping[str, Any]) -> list[str]:
    """The sequences that end an answer."""
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else list(stop)


def parts(message: Json) -> list[Json]:
    """The parts of a message's content, which may be one text; a refusal is what was said instead."""
    content = message.get("content") or message.get("refusal")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content or []]


def text_part(part: Json) -> str | None:
    """The text of a part, if it is one."""
    kind = part["type"]
    return str(part[kind]) if kind in ("text", "refusal") else None


def inline(name: str, parameter: str, url: str) -> tuple[str, str]:
    """The media type and the base64 of a `data:` URL.

    Raises:
        RequestRefused: it is something else.
    """
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise not_taken(name, parameter, url[:60])
    media_type = found[1].lower()
    return _MEDIA_TYPES.get(media_type, media_type), found[2]


def arguments(call: Json) -> Json:
    """What a tool was called with; raises ValueError if it is no JSON object."""
    given = call["function"].get("arguments") or "{}"
    read = orjson.loads(given)
    if not isinstance(read, dict):
        raise ValueError(f"arguments of a tool call are no object: {str(given)[:60]}")
    return read


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that a model may call.

    `mode`: auto, none or required; `only`: the names of those that it must choose from.
    """

    functions: list[Json]
    mode: str
    only: list[str] | None
    parallel: bool


def tools(name: str, body: Mapping[str, Any]) -> Tools | None:
    """What a request says of tools; None if it has none.

    Raises:
        RequestRefused: a tool is no function.
    """
    functions = []
    for tool in body.get("tools") or []:
        if tool["type"] != "function":
            raise not_taken(name, "tools.type", tool["type"])
        functions.append(tool["function"])
    if not functions:
        return None
    choice = body.get("tool_choice") or "auto"
    only: list[str] | None = None
    if isinstance(choice, dict):
        if choice["type"] == "function":
            only, choice = [choice["function"]["name"]], "required"
        elif choice["type"] == "allowed_tools":
            allowed = choice["allowed_tools"]
            only, choice = [tool["function"]["name"] for tool in allowed["tools"]], allowed["mode"]
    if choice not in ("auto", "none", "required"):
        raise not_taken(name, "tool_choice", choice)
    return Tools(functions, choice, only, body.get("parallel_tool_calls") is not False)


def answer_schema(body: Mapping[str, Any]) -> tuple[str, Json | None]:
    """The kind of answer that is asked for, and the schema that it is held to."""
    wanted = body.get("response_format") or {"type": "text"}
    kind = str(wanted["type"])
    return kind, wanted["json_schema"].get("schema") if kind == "json_schema" else None


# What is answered.


def usage_body(usage: Usage) -> Json:
    """The tokens as OpenAI tells them."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    """A call of a tool, as it stands in a message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def completed(answer_id: str, model: str, message: Json, finish: str, usage: Usage | None) -> Completion:
    """A complete answer; of the message, what is empty is left out, but not its content."""
    said = {key: value for key, value in message.items() if value}
    body: Json = {
        "id": answer_id or f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, **said},
                "finish_reason": finish,
            }
        ],
    }
    if usage is not None:
        body["usage"] = usage_body(usage)
    return Completion(body, model[:MAX_MODEL_CHARS], usage)


class Pieces:
    """Makes the chunks of one answer."""

    def __init__(self, answer_id: str = "", model: str = "") -> None:
        self._head = {
            "id": answer_id or f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def of(self, delta: Json, finish: str | None = None) -> Chunk:
        """A piece of the answer."""
        return Chunk({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def of_call(self, place: int, call: Json) -> Chunk:
        """A piece of a call of a tool."""
        return self.of({"tool_calls": [{"index": place, **call}]})

    def of_usage(self, usage: Usage) -> Chunk:
        """The tokens of the whole answer."""
        return Chunk({**self._head, "choices": [], "usage": usage_body(usage)}, usage)


class Reader(Protocol):
    """Translates the events of one stream. `over`: nothing more is to come."""

    over: bool

    def read(self, data: bytes) -> Iterable[Chunk]:
        """The pieces that an event holds; raises StepError for an event that is an error or nonsense."""
        ...

    def rest(self) -> Iterable[Chunk]:
        """What is known once all is read: the usage."""
        ...


async def pieces(
    name: str, events: AsyncGenerator[tuple[str, bytes], None], reader: Reader, pace: Pace
) -> AsyncGenerator[Chunk, None]:
    """The pieces of a stream; what breaks after its finish reason costs nobody the answer.

    Raises:
        ConnectionFailed: it ended without a finish reason.
        StepError: it broke.
    """
    finished = False
    try:
        async with aclosing(events):
            async for _, data in events:
                for piece in reader.read(data):
                    if piece.finish_reason:
                        finished = True
                        pace.idle_s = min(pace.idle_s, TRAILING_S)
                    yield piece
                if reader.over and not finished:
                    break
                # But for the last bytes of the connection, which else could not be used again.
                if reader.over:
                    pace.idle_s = min(pace.idle_s, DRAINING_S)
    except StepError:
        if not finished:
            raise
    if not finished:
        raise ConnectionFailed(f"{name} ended its answer without a finish reason")
    for piece in reader.rest():
        yield piece


def unknown_end(name: str, reason: Any) -> ProviderError:
    """An answer that ended in a way which makes it none."""
    return ProviderError(f"{name} ended with {str(reason)[:100]!r}")
