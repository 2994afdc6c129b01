"""Chats as Anthropic takes them: what the SDK's own types know, and a refusal of what would be missed."""

import json
from typing import Any

import pytest
from anthropic import transform_schema
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from support.sdk_types import conforms
from trivium.errors import RequestRefused
from trivium.llm.anthropic_request import MOST_TOKENS, decodable, request_body, trailing_space
from trivium.llm.provider import Chat, Message, asked

MODEL = "claude-haiku-5-5"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["summary"],
    "properties": {"summary": {"type": "string", "minLength": 1, "maxLength": 300}},
    "additionalProperties": False,
}
HI = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "minLength": 1}}},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "call.1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PIXEL = "iVBORw0KGgo="


def sent(*messages: dict[str, Any], model: str = MODEL, **given: Any) -> dict[str, Any]:
    """The body for a chat; both sides have the types of their SDKs."""
    conforms(CompletionCreateParamsNonStreaming, {"model": "m", "messages": messages or (HI,), **given})
    body = request_body(Chat(model, {"messages": list(messages) or [HI], **given}))
    conforms(
        MessageCreateParamsNonStreaming,
        {key: value for key, value in body.items() if key not in ("temperature", "top_p")},
    )
    return body


def turns(*messages: dict[str, Any], **given: Any) -> Any:
    return sent(*messages, **given)["messages"]


def test_a_feature_asks_for_its_schema_in_so_many_tokens() -> None:
    chat = asked(MODEL, [Message("system", "Be brief."), Message("user", "hi")], SCHEMA, 0.0, 16)
    body = request_body(chat)
    conforms(MessageCreateParamsNonStreaming, body)
    schema = body.pop("output_config")["format"]["schema"]
    assert body == {"model": MODEL, "max_tokens": 16, "system": "Be brief.", "messages": [HI]}
    assert schema["properties"]["summary"] == {
        "type": "string",
        "description": "{minLength: 1, maxLength: 300}",
    }


def test_the_vendor_is_told_how_long_an_answer_may_be_even_if_nobody_said() -> None:
    assert sent()["max_tokens"] == MOST_TOKENS
    assert sent(max_tokens=7)["max_tokens"] == 7
    assert sent(max_tokens=7, max_completion_tokens=8)["max_tokens"] == 8


def test_turns_of_one_speaker_are_put_together_and_system_messages_too() -> None:
    body = sent(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": " \n"},
        {"role": "user", "content": "d"},
    )
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


@pytest.mark.parametrize("shape", [str, list])
def test_an_answer_that_is_gone_on_from_has_no_white_space_at_its_end(shape: type) -> None:
    text = "It is \n"
    begun = {"role": "assistant", "content": text if shape is str else [{"type": "text", "text": text}]}
    assert turns(HI, begun) == [HI, {"role": "assistant", "content": "It is"}]
    assert trailing_space(Chat(MODEL, {"messages": [HI, begun]})) == " \n"
    assert trailing_space(Chat(MODEL, {"messages": [begun, HI]})) == ""
    assert turns(HI, begun, HI)[1]["content"] == text


def test_images_and_files_go_as_what_they_are() -> None:
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PIXEL}"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
    ]
    ((turn),) = turns({"role": "user", "content": content})
    assert turn["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PIXEL}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        },
    ]


def test_a_mark_for_the_prompt_cache_goes_along() -> None:
    marked = {"type": "text", "text": "long", "prompt_cache_breakpoint": {"mode": "explicit"}}
    body = sent({"role": "system", "content": [marked]}, {"role": "user", "content": [marked]})
    cached = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    assert (body["system"], body["messages"][0]["content"]) == ([cached], [cached])


def test_calls_of_tools_and_their_results_are_turns_of_their_own() -> None:
    found = turns(
        HI,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, {**CALL, "id": "b"}]},
        {"role": "tool", "tool_call_id": "call.1", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "sun"}]},
        {"role": "user", "content": "well?"},
        tools=[TOOL],
    )
    used = {"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}
    assert found[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {**used, "id": "call_1"},
                {**used, "id": "b"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "b", "content": "sun"},
                {"type": "text", "text": "well?"},
            ],
        },
    ]


def test_tools_are_described_as_the_vendor_has_them() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    plain, bare, held = sent(tools=[TOOL, NOW, strict])["tools"]
    properties = {"city": {"type": "string", "minLength": 1}}
    assert plain == {
        "name": "weather",
        "description": "Of a city.",
        "input_schema": {"type": "object", "properties": properties},
    }
    assert bare == {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    assert held["strict"] is True
    assert held["input_schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("given", "choice", "names"),
    [
        ({}, None, ["weather", "now"]),
        ({"tool_choice": "auto"}, None, ["weather", "now"]),
        ({"tool_choice": "none"}, {"type": "none"}, ["weather", "now"]),
        ({"tool_choice": "required"}, {"type": "any"}, ["weather", "now"]),
        (
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
            {"type": "tool", "name": "now"},
            ["weather", "now"],
        ),
        (
            {"parallel_tool_calls": False},
            {"type": "auto", "disable_parallel_tool_use": True},
            ["weather", "now"],
        ),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
            ["weather", "now"],
        ),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}, ["weather", "now"]),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [NOW]},
                }
            },
            None,
            ["now"],
        ),
    ],
)
def test_which_tool_may_be_called_is_passed_on(given: dict[str, Any], choice: Any, names: list[str]) -> None:
    body = sent(tools=[TOOL, NOW], **given)
    assert body.get("tool_choice") == choice
    assert [tool["name"] for tool in body["tools"]] == names


def test_what_ends_an_answer_and_who_asks_is_passed_on() -> None:
    body = sent(stop=["a", "b"], user="u-1")
    assert (body["stop_sequences"], body["metadata"]) == (["a", "b"], {"user_id": "u-1"})
    body = sent(stop="a", user="u-1", safety_identifier="s-1")
    assert (body["stop_sequences"], body["metadata"]) == (["a"], {"user_id": "s-1"})


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-haiku-20240307", True),
        ("claude-opus-4-20250514", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-haiku-4-5", True),
        ("claude-opus-4-6", True),
        ("claude-opus-4-7", False),
        ("claude-opus-4-10", False),
        ("claude-opus-4-8-20270101", False),
        ("claude-sonnet-5", False),
        ("claude-haiku-5-5", False),
        ("claude-mythos-preview", False),
    ],
)
def test_only_models_that_take_a_temperature_are_sent_one(model: str, takes: bool) -> None:
    for given, expected in ((0.5, 0.5), (0, 0), (1.7, 1.0)):
        body = sent(model=model, temperature=given, top_p=0.9)
        assert body.get("temperature") == (expected if takes else None)
        assert "top_p" not in body
    assert sent(model=model, top_p=0.9).get("top_p") == (0.9 if takes else None)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"presence_penalty": 0.5}, r"presence_penalty = '0\.5'"),
        ({"frequency_penalty": -1.0}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, r"response_format\.type = 'json_object'"),
    ],
)
def test_what_the_vendor_has_nothing_for_is_refused_by_its_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestRefused, match=f"anthropic does not take {named}"):
        request_body(Chat(MODEL, {"messages": [HI], **given}))


def test_a_sound_is_refused() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}
    with pytest.raises(RequestRefused, match=r"messages\.content\.type = 'input_audio'"):
        request_body(Chat(MODEL, {"messages": [{"role": "user", "content": [sound]}]}))


def test_penalties_of_nothing_are_left_out() -> None:
    assert sent(presence_penalty=0, frequency_penalty=0.0, seed=7, parallel_tool_calls=True) == sent()


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {
            "type": "object",
            "description": "An order.",
            "$defs": {"amount": {"type": "number", "exclusiveMinimum": 0}},
            "properties": {
                "minimum": {"type": "integer", "minimum": 3, "description": "The least."},
                "day": {"type": "string", "format": "date"},
                "iban": {"type": "string", "pattern": "^[A-Z]{2}", "format": "iban"},
                "amount": {"$ref": "#/$defs/amount"},
                "lines": {"type": "array", "minItems": 1, "maxItems": 9, "items": {"type": "string"}},
                "many": {"type": "array", "minItems": 2, "items": {"type": "object", "properties": {}}},
                "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
                "both": {"allOf": [{"type": "string"}]},
                "kind": {"enum": ["a", "b"]},
                "one": {"const": 1},
            },
            "required": ["day"],
        },
    ],
)
def test_a_schema_is_cut_to_what_the_sdk_cuts_it_to(schema: dict[str, Any]) -> None:
    before = json.dumps(schema)
    assert decodable(schema) == transform_schema(schema)
    assert json.dumps(schema) == before


def test_an_odd_schema_is_passed_on_for_the_vendor_to_judge() -> None:
    odd = {"$schema": "x", "type": ["object", "null"], "properties": {"any": True}, "items": False}
    assert decodable(odd) == {"type": ["object", "null"], "properties": {"any": True}, "items": False}
