"""Chats as Google takes them: what the SDK's own types know, and a refusal of what would be missed."""

from typing import Any

import pytest
from google.genai import types
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import BaseModel, TypeAdapter

from support.sdk_types import conforms
from trivium.errors import RequestRefused
from trivium.llm.google_request import request_body
from trivium.llm.provider import Chat, Message, asked

MODEL = "gemini-3-flash"
HI = {"role": "user", "content": "hi"}
USER_HI = {"role": "user", "parts": [{"text": "hi"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA},
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TYPES: dict[str, Any] = {
    "contents": list[types.Content],
    "systemInstruction": types.Content,
    "tools": list[types.Tool],
    "toolConfig": types.ToolConfig,
    "generationConfig": types.GenerationConfig,
}


def sent(*messages: dict[str, Any], model: str = MODEL, **given: Any) -> dict[str, Any]:
    """The body for a chat; both sides have the types of their SDKs."""
    conforms(CompletionCreateParamsNonStreaming, {"model": "m", "messages": messages or (HI,), **given})
    body = request_body(Chat(model, {"messages": list(messages) or [HI], **given}))
    google_knows(body)
    return body


def google_knows(body: dict[str, Any]) -> None:
    for key, value in body.items():
        read = TypeAdapter(TYPES[key]).validate_python(value)
        for part in read if isinstance(read, list) else [read]:
            assert isinstance(part, BaseModel)
            assert part.model_config["extra"] == "forbid"
    assert set(body) <= set(TYPES)


def test_a_feature_asks_for_its_schema_in_so_many_tokens() -> None:
    chat = asked(MODEL, [Message("system", "Be brief."), Message("user", "hi")], SCHEMA, 0.5, 16)
    body = request_body(chat)
    google_knows(body)
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [USER_HI],
        "generationConfig": {
            "temperature": 0.5,
            "maxOutputTokens": 16,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
        },
    }


def test_a_bare_chat_has_nothing_but_its_contents() -> None:
    assert sent() == {"contents": [USER_HI]}


def test_what_the_vendor_has_a_knob_for_is_passed_on() -> None:
    config = sent(
        temperature=1.7,
        top_p=0.9,
        seed=7,
        max_completion_tokens=8,
        stop="a",
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        response_format={"type": "json_object"},
    )["generationConfig"]
    assert config == {
        "temperature": 1.7,
        "topP": 0.9,
        "seed": 7,
        "maxOutputTokens": 8,
        "stopSequences": ["a"],
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "responseMimeType": "application/json",
    }
    assert sent(stop=["a", "b"], temperature=0)["generationConfig"] == {
        "stopSequences": ["a", "b"],
        "temperature": 0,
    }


def test_turns_of_one_speaker_are_put_together_and_system_messages_too() -> None:
    body = sent(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "c "},
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c "}]},
    ]


def test_images_sounds_and_files_go_as_what_they_are() -> None:
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png?size=1"}},
        {"type": "image_url", "image_url": {"url": "https://x.org/a"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
    ]
    ((turn),) = sent({"role": "user", "content": content})["contents"]
    assert turn["parts"] == [
        {"text": "what is it?"},
        {"fileData": {"fileUri": "https://x.org/a.png?size=1", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "https://x.org/a"}},
        {"inlineData": {"mimeType": "image/jpeg", "data": "iVBORw0KGgo="}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
    ]


def test_calls_of_tools_and_their_results_are_turns_of_their_own() -> None:
    now = {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}}
    found = sent(
        HI,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, now]},
        {"role": "tool", "tool_call_id": "a", "content": '{"sky": "rain"}'},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
        {"role": "user", "content": "well?"},
        model="gemini-2.5-flash",
        tools=[WEATHER, NOW],
    )["contents"]
    assert found[1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {"functionCall": {"id": "a", "name": "weather", "args": {"city": "Oslo"}}},
                {"functionCall": {"id": "b", "name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "weather", "response": {"sky": "rain"}}},
                {"functionResponse": {"id": "b", "name": "now", "response": {"output": "noon"}}},
                {"text": "well?"},
            ],
        },
    ]


@pytest.mark.parametrize("told", ["[1]", "7", "null", "", "not JSON"])
def test_a_result_that_is_no_object_is_made_one(told: str) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    contents = sent(HI, call, {"role": "tool", "tool_call_id": "a", "content": told})["contents"]
    assert set(contents[-1]["parts"][0]["functionResponse"]["response"]) == {"output"}


@pytest.mark.parametrize(
    ("model", "signed"),
    [
        ("gemini-2.5-pro", False),
        ("gemini-3-flash", True),
        ("gemini-3.5-flash", True),
        ("gemini-10-pro", True),
    ],
)
def test_a_call_that_another_model_made_is_marked_as_such(model: str, signed: bool) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "b"}]}
    first, second = sent(HI, call, model=model)["contents"][1]["parts"]
    assert ("thoughtSignature" in first, "thoughtSignature" in second) == (signed, False)


def test_a_signature_goes_back_where_it_came_from() -> None:
    own = {**CALL, "id": "b", "extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
    call = {"role": "assistant", "content": None, "tool_calls": [CALL, own]}
    first, second = request_body(Chat(MODEL, {"messages": [HI, call]}))["contents"][1]["parts"]
    assert "thoughtSignature" not in first
    assert second["thoughtSignature"] == "c2lnbmVk"


def test_tools_are_described_as_the_vendor_has_them() -> None:
    assert sent(tools=[WEATHER, NOW])["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "Of a city.", "parametersJsonSchema": SCHEMA},
                {"name": "now"},
            ]
        }
    ]


@pytest.mark.parametrize(
    ("choice", "config", "names"),
    [
        ("auto", None, ["weather", "now"]),
        ("none", {"mode": "NONE"}, ["weather", "now"]),
        ("required", {"mode": "ANY"}, ["weather", "now"]),
        (
            {"type": "function", "function": {"name": "now"}},
            {"mode": "ANY", "allowedFunctionNames": ["now"]},
            ["weather", "now"],
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NOW]}},
            {"mode": "ANY", "allowedFunctionNames": ["now"]},
            ["weather", "now"],
        ),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW]}}, None, ["now"]),
    ],
)
def test_which_tool_may_be_called_is_passed_on(choice: Any, config: Any, names: list[str]) -> None:
    body = sent(tools=[WEATHER, NOW], tool_choice=choice)
    assert body.get("toolConfig") == ({"functionCallingConfig": config} if config else None)
    assert [tool["name"] for tool in body["tools"][0]["functionDeclarations"]] == names


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tools": [NOW], "parallel_tool_calls": False}, "parallel_tool_calls = 'False'"),
        (
            {"messages": [{"role": "tool", "tool_call_id": "z", "content": "x"}]},
            r"messages\.tool_call_id = 'z,",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {
                        "role": "tool",
                        "tool_call_id": "a",
                        "content": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}],
                    },
                ]
            },
            r"messages\.content\.type",
        ),
    ],
)
def test_what_the_vendor_has_nothing_for_is_refused_by_its_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestRefused, match=f"google does not take {named}"):
        request_body(Chat(MODEL, {"messages": [HI], **given}))
    sent(tools=[NOW], tool_choice="none", parallel_tool_calls=False)
