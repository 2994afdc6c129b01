"""A chat as Anthropic's `POST /v1/messages` takes it."""

import re
from collections.abc import Mapping
from typing import Any

from trivium.llm.provider import Chat, Json
from trivium.llm.shapes import (
    Tools,
    answer_schema,
    arguments,
    inline,
    most_tokens,
    not_taken,
    parts,
    reading,
    refuse_what_is_openais,
    stops,
    text_part,
    tools,
)

NAME = "anthropic"
MOST_TOKENS = 4096
"""How long an answer may be if the request does not say; the vendor demands a number."""

# Models after 4.6 answer 400 to a temperature, and none to come takes one: this list is closed.
_TAKES_TEMPERATURE = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8})?$)")
_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_EPHEMERAL = {"type": "ephemeral"}

# The subset of JSON Schema that structured outputs take, as the vendor's own SDK cuts it out.
_KEYWORDS = {"$ref", "const", "description", "enum", "required", "title", "type"}
_FORMATS = {
    *("date", "date-time", "duration", "email", "hostname"),
    *("ipv4", "ipv6", "time", "uri", "uuid"),
}
_NOT_FOR_MODELS = {"$comment", "$id", "$schema", "additionalProperties"}


def request_body(chat: Chat) -> Json:
    """What `POST /v1/messages` takes.

    Left out: how the model is to sample and to think, where it has no such knob, and what only OpenAI's
    own service does with a request, such as `store`.

    Raises:
        RequestRefused: something is asked for that would be missed in the answer.
    """
    with reading(NAME):
        refuse_what_is_openais(NAME, chat.body, "presence_penalty", "frequency_penalty")
        body: Json = {"model": chat.model, "max_tokens": most_tokens(chat.body) or MOST_TOKENS}
        body |= _conversation(chat.body["messages"])
        body |= _sampling(chat.model, chat.body)
        if found := tools(NAME, chat.body):
            body |= _tools(found)
        kind, schema = answer_schema(chat.body)
        if schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": decodable(schema)}}
        elif kind != "text":  # there is JSON of a given schema, but not JSON of any
            raise not_taken(NAME, "response_format.type", kind)
        return body


def trailing_space(chat: Chat) -> str:
    """The white space at the end of an answer that is to be gone on from: the vendor takes none there."""
    last = chat.body["messages"][-1]
    if last["role"] != "assistant" or last.get("tool_calls"):
        return ""
    text = "".join(text_part(part) or "" for part in parts(last))
    return text[len(text.rstrip()) :]


def _sampling(model: str, asked: Mapping[str, Any]) -> Json:
    body: Json = {}
    if stop := stops(asked):
        body["stop_sequences"] = stop
    if user := asked.get("safety_identifier") or asked.get("user"):
        body["metadata"] = {"user_id": str(user)}
    if _TAKES_TEMPERATURE.match(model):
        temperature, top_p = asked.get("temperature"), asked.get("top_p")
        if temperature is not None:
            body["temperature"] = min(max(temperature, 0.0), 1.0)
        elif top_p is not None:  # several models refuse the two together
            body["top_p"] = top_p
    return body


def _conversation(messages: list[Json]) -> Json:
    """The system prompt and the turns; turns of one speaker, results of tools included, are put together."""
    system: list[Json] = []
    turns: list[Json] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += [_block(part) for part in parts(message) if not _blank(part)]
            continue
        if role not in ("user", "assistant", "tool"):
            raise not_taken(NAME, "messages.role", role)
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    if turns and turns[-1]["role"] == "assistant":
        last: Json = turns[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
    for turn in turns:
        turn["content"] = _short(turn["content"])
    if not system:
        return {"messages": turns}
    plain = all(set(block) == {"type", "text"} for block in system)
    return {
        "messages": turns,
        "system": "\n\n".join(block["text"] for block in system) if plain else system,
    }


def _short(blocks: list[Json]) -> str | list[Json]:
    """One text alone stands for itself."""
    alone = len(blocks) == 1 and set(blocks[0]) == {"type", "text"}
    return str(blocks[0]["text"]) if alone else blocks


def _blocks(message: Json) -> list[Json]:
    blocks = [_block(part) for part in parts(message) if not _blank(part)]
    if message["role"] == "tool":
        told = {"content": _short(blocks)} if blocks else {}
        return [{"type": "tool_result", "tool_use_id": _id(message["tool_call_id"]), **told}]
    for call in message.get("tool_calls") or []:
        if call.get("type", "function") != "function":
            raise not_taken(NAME, "messages.tool_calls.type", call["type"])
        used = {"id": _id(call["id"]), "name": call["function"]["name"], "input": arguments(call)}
        blocks.append({"type": "tool_use", **used})
    return blocks


def _blank(part: Json) -> bool:
    """Whether it is a text that the vendor refuses as empty."""
    text = text_part(part)
    return text is not None and not text.strip()


def _block(part: Json) -> Json:
    """One part of a content; a mark for the prompt cache goes along."""
    kind, text = part["type"], text_part(part)
    if text is not None:
        block: Json = {"type": "text", "text": text}
    elif kind == "image_url":
        block = {"type": "image", "source": _source("messages.content.image_url", part["image_url"]["url"])}
    elif kind == "file" and isinstance(part["file"].get("file_data"), str):
        block = {"type": "document", "source": _source("messages.content.file", part["file"]["file_data"])}
    else:
        raise not_taken(NAME, "messages.content.type", kind)
    mark = part.get("cache_control") or (_EPHEMERAL if part.get("prompt_cache_breakpoint") else None)
    return {**block, "cache_control": mark} if mark else block


def _source(parameter: str, url: str) -> Json:
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    media_type, data = inline(NAME, parameter, url)
    return {"type": "base64", "media_type": media_type, "data": data}


def _id(call_id: str) -> str:
    """The id of a call, which another vendor may have made, in the characters that this one takes."""
    return _NOT_IN_AN_ID.sub("_", call_id)


def _tools(found: Tools) -> Json:
    functions = found.functions
    choice: Json = {"type": {"auto": "auto", "none": "none", "required": "any"}[found.mode]}
    if found.only is not None:
        functions = [function for function in functions if function["name"] in found.only]
        if len(found.only) == 1 and found.mode == "required":
            choice, functions = {"type": "tool", "name": found.only[0]}, found.functions
    if not found.parallel and found.mode != "none":
        choice["disable_parallel_tool_use"] = True
    body: Json = {"tools": [_tool(function) for function in functions]}
    return body if choice == {"type": "auto"} else {**body, "tool_choice": choice}


def _tool(function: Json) -> Json:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    tool: Json = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        tool["description"] = function["description"]
    if function.get("strict"):
        tool |= {"strict": True, "input_schema": decodable(schema)}
    return tool


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
