"""A chat as Google's `models/{model}:generateContent` takes it."""

import mimetypes
import re
from collections.abc import Mapping
from typing import Any

import orjson

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

NAME = "google"
# Gemini 3 and later refuse a history whose calls of tools lack the model's own signature, but for this one,
# which the vendor's page on thought signatures gives for calls that another model made.
_NEEDS_SIGNATURE = re.compile(r"gemini-([3-9]|[1-9]\d)")
_FOREIGN = "skip_thought_signature_validator"
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_SAME = {"temperature": "temperature", "top_p": "topP", "seed": "seed"}


def request_body(chat: Chat) -> Json:
    """What `generateContent` takes.

    Left out: how much the model is to think, who asks, and what only OpenAI's own service does with a
    request, such as `store`.

    Raises:
        RequestRefused: something is asked for that would be missed in the answer.
    """
    with reading(NAME):
        refuse_what_is_openais(NAME, chat.body)
        body = _conversation(chat)
        if found := tools(NAME, chat.body):
            body |= _tools(found)
        if config := _config(chat.body):
            body["generationConfig"] = config
        return body


def _config(asked: Mapping[str, Any]) -> Json:
    config: Json = {theirs: asked[ours] for ours, theirs in _SAME.items() if asked.get(ours) is not None}
    for ours, theirs in (("presence_penalty", "presencePenalty"), ("frequency_penalty", "frequencyPenalty")):
        if asked.get(ours):  # most models refuse them, 0 included
            config[theirs] = asked[ours]
    if (most := most_tokens(asked)) is not None:
        config["maxOutputTokens"] = most
    if stop := stops(asked):
        config["stopSequences"] = stop
    kind, schema = answer_schema(asked)
    if kind in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
    elif kind != "text":
        raise not_taken(NAME, "response_format.type", kind)
    if schema is not None:
        config["responseJsonSchema"] = schema
    return config


def _conversation(chat: Chat) -> Json:
    """The system prompt and the turns; turns of the same speaker are put together."""
    system: list[Json] = []
    turns: list[Json] = []
    called: dict[str, str] = {}  # names of functions by the ids of their calls
    for message in chat.body["messages"]:
        role = message["role"]
        if role in ("system", "developer"):
            system += _parts(message)
            continue
        if role not in ("user", "assistant", "tool"):
            raise not_taken(NAME, "messages.role", role)
        if role == "tool":
            said = [_result(message, called)]
        else:
            said = _parts(message) + _calls(chat.model, message, called)
        speaker = "model" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["parts"] += said
        elif said:
            turns.append({"role": speaker, "parts": said})
    return {"contents": turns, **({"systemInstruction": {"parts": system}} if system else {})}


def _parts(message: Json) -> list[Json]:
    return [_part(part) for part in parts(message) if text_part(part) != ""]


def _part(part: Json) -> Json:
    kind, text = part["type"], text_part(part)
    if text is not None:
        return {"text": text}
    if kind == "image_url":
        url = part["image_url"]["url"]
        if url.startswith(("https://", "http://")):
            media_type = mimetypes.guess_type(url.partition("?")[0])[0]
            return {"fileData": {"fileUri": url, **({"mimeType": media_type} if media_type else {})}}
        return _inline(*inline(NAME, "messages.content.image_url", url))
    if kind == "input_audio":
        return _inline(f"audio/{part['input_audio']['format']}", part["input_audio"]["data"])
    if kind == "file" and isinstance(part["file"].get("file_data"), str):
        return _inline(*inline(NAME, "messages.content.file", part["file"]["file_data"]))
    raise not_taken(NAME, "messages.content.type", kind)


def _inline(media_type: str, data: str) -> Json:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _calls(model: str, message: Json, called: dict[str, str]) -> list[Json]:
    """The calls of a turn, with their signatures where Google's own translation puts them."""
    found: list[Json] = []
    for call in message.get("tool_calls") or []:
        if call.get("type", "function") != "function":
            raise not_taken(NAME, "messages.tool_calls.type", call["type"])
        name = called[call["id"]] = call["function"]["name"]
        part: Json = {"functionCall": {"id": call["id"], "name": name, "args": arguments(call)}}
        own = (call.get("extra_content") or {}).get("google") or {}
        if own.get("thought_signature"):
            part["thoughtSignature"] = own["thought_signature"]
        found.append(part)
    unsigned = found and not any("thoughtSignature" in part for part in found)
    if unsigned and _NEEDS_SIGNATURE.match(model):
        found[0]["thoughtSignature"] = _FOREIGN  # of calls at once, the first has it
    return found


def _result(message: Json, called: dict[str, str]) -> Json:
    call_id = message["tool_call_id"]
    name = called.get(call_id) or message.get("name")
    if not name:
        raise not_taken(NAME, "messages.tool_call_id", f"{call_id}, which no message before calls")
    texts = [text_part(part) for part in parts(message)]
    if None in texts:
        raise not_taken(NAME, "messages.content.type", "a result of a tool that is not text")
    told = "".join(text or "" for text in texts)
    return {"functionResponse": {"id": call_id, "name": name, "response": _object(told)}}


def _object(told: str) -> Json:
    """What a tool said; the vendor takes objects only."""
    try:
        read = orjson.loads(told)
    except orjson.JSONDecodeError:
        read = told
    return read if isinstance(read, dict) else {"output": read}


def _tools(found: Tools) -> Json:
    if not found.parallel and found.mode != "none":
        raise not_taken(NAME, "parallel_tool_calls", False)
    mode, functions = _MODES[found.mode], found.functions
    choice: Json = {"mode": mode}
    if found.only is not None and mode == "ANY":
        choice["allowedFunctionNames"] = found.only
    elif found.only is not None:
        functions = [function for function in functions if function["name"] in found.only]
    body: Json = {"tools": [{"functionDeclarations": [_function(function) for function in functions]}]}
    return body if choice == {"mode": "AUTO"} else {**body, "toolConfig": {"functionCallingConfig": choice}}


def _function(function: Json) -> Json:
    declared: Json = {"name": function["name"]}
    if function.get("description"):
        declared["description"] = function["description"]
    if function.get("parameters"):
        declared["parametersJsonSchema"] = function["parameters"]
    return declared
