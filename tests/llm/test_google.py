"""Google's wire: a socket that breaks in every way, and answers that end in all the ways they may."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from google import genai
from google.genai import types
from google.genai.types import BlockedReason, FinishReason

from support.answers import heard, read
from support.recordings import RECORDINGS, on_wire
from support.refusals import google_error
from support.sockets import Handle, cut, http, reset, silent, socket, sse, stalled
from trivium.domain.inference import Usage
from trivium.errors import (
    AccessDenied,
    ConnectionFailed,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm.google import GoogleProvider
from trivium.llm.google_request import request_body
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Chat, Completion, Limits, Message, asked, text_of

KEY = "sk-secret"  # what an error may repeat, see refusals
CHAT = asked("gemini-3-flash", [Message("user", "hi")], None, 0.0, 16)
SOON = Limits(0.3)
USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
TEXT = next(r for r in RECORDINGS if r.vendor == "google" and r.name == "text")


@asynccontextmanager
async def provider(handle: Handle) -> AsyncIterator[GoogleProvider]:
    async with socket(handle) as running, aiohttp.ClientSession() as session:
        yield GoogleProvider("google", running.url, KeyRing([KEY]), session)


async def answered(body: object) -> Completion:
    async with provider(http(200, body)) as one:
        return await one.complete(CHAT, Limits(1.0))


def response(finish: str | None, *parts: dict[str, Any], **other: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "g-1", **other}


FAULTS: list[tuple[str, Handle, type[StepError]]] = [
    ("429", http(429, google_error(429, "RESOURCE_EXHAUSTED")), RateLimited),
    ("503", http(503, google_error(503, "UNAVAILABLE")), Overloaded),
    ("500", http(500, google_error(500, "INTERNAL")), ProviderError),
    ("400", http(400, google_error(400, "INVALID_ARGUMENT")), RequestRefused),
    ("400 for the key", http(400, google_error(400, "INVALID_ARGUMENT", "API key expired.")), AccessDenied),
    ("403 that says the key", http(403, f"bad key {KEY}".encode()), AccessDenied),
    ("200, not JSON", http(200, b"<html>"), ProviderError),
    ("200, no candidates", http(200, {"usageMetadata": USAGE}), ProviderError),
    ("200, empty candidates", http(200, {"candidates": []}), ProviderError),
    ("200, nothing", http(200, {}), ProviderError),
    ("200, a list", http(200, []), ProviderError),
    ("200, odd parts", http(200, response("STOP", {"functionCall": {}})), ProviderError),
    ("no end", http(200, response(None, {"text": "hello"})), ProviderError),
    ("no signature", http(200, response("MISSING_THOUGHT_SIGNATURE")), RequestRefused),
    ("reset", reset, ConnectionFailed),
    ("cut body", cut, ConnectionFailed),
    ("silence", silent, StepTimeout),
    ("stalled body", stalled, StepTimeout),
]


@pytest.mark.parametrize(("handle", "expected"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_every_fault_at_the_socket_has_its_name(handle: Handle, expected: type[StepError]) -> None:
    async with provider(handle) as broken:
        with pytest.raises(StepError) as caught:
            await broken.complete(CHAT, SOON)
    assert type(caught.value) is expected
    assert KEY not in str(caught.value)


ENDS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
            *("ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR"),
        ),
        "content_filter",
    ),
}
NO_ENDS = {
    *("FINISH_REASON_UNSPECIFIED", "OTHER", "MALFORMED_FUNCTION_CALL", "IMAGE_OTHER", "NO_IMAGE"),
    *("UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"),
}


def test_every_end_that_the_sdk_knows_was_thought_of() -> None:
    assert {reason.value for reason in FinishReason} == set(ENDS) | NO_ENDS


@pytest.mark.parametrize(("reason", "finish"), ENDS.items())
async def test_an_answer_that_ended_says_why(reason: str, finish: str) -> None:
    body = response(reason, {"text": "hel"}, {"text": "lo"})
    made = await answered(body)
    async with provider(sse(on_wire("google", [body]))) as one:
        assert heard([piece async for piece in one.stream(CHAT, SOON)]) == read(made)
    assert (made.finish_reason, made.usage, made.model) == (finish, Usage(9, 3), "g-1")
    assert made.message["content"] == "hello"
    assert made.message.get("refusal") == (reason if finish == "content_filter" else None)


@pytest.mark.parametrize("reason", [*sorted(NO_ENDS), "WHATEVER_IS_TO_COME"])
async def test_an_answer_that_ended_in_another_way_is_none_and_its_cost_is_kept(reason: str) -> None:
    expected = RequestRefused if reason == "MISSING_THOUGHT_SIGNATURE" else ProviderError
    body = response(reason, {"text": "hello"})
    with pytest.raises(expected) as caught:
        await answered(body)
    assert caught.value.usage == Usage(9, 3)
    async with provider(sse(on_wire("google", [body]))) as one:
        with pytest.raises((expected, ConnectionFailed)):
            _ = [piece async for piece in one.stream(CHAT, SOON)]


@pytest.mark.parametrize("reason", [reason.value for reason in BlockedReason])
async def test_a_prompt_that_is_blocked_is_declined(reason: str) -> None:
    made = await answered({"promptFeedback": {"blockReason": reason}, "usageMetadata": USAGE})
    with pytest.raises(PolicyRefused, match=f"the prompt was blocked: {reason}"):
        text_of(made, "google")


async def test_a_refusal_says_why_if_the_vendor_does() -> None:
    body = response("SAFETY")
    body["candidates"][0]["finishMessage"] = "it is against the policy"
    made = await answered(body)
    assert (made.message["content"], made.message["refusal"]) == (None, "it is against the policy")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [1],
        "many",
        {},
        {"promptTokenCount": "x"},
        {"promptTokenCount": -1},
        {"promptTokenCount": 10**30},
        {"promptTokenCount": 1, "cachedContentTokenCount": 2},
        {"promptTokenCount": 1, "thoughtsTokenCount": [1]},
    ],
)
async def test_a_usage_that_cannot_be_true_is_unknown_and_costs_nobody_the_answer(usage: object) -> None:
    made = await answered(response("STOP", {"text": "hello"}, usageMetadata=usage))
    assert (text_of(made, "x"), made.usage) == ("hello", None)


async def test_tokens_of_thoughts_and_of_tools_are_counted_with_the_others() -> None:
    usage = {"promptTokenCount": 9, "toolUsePromptTokenCount": 2, "thoughtsTokenCount": 5}
    made = await answered(response("STOP", {"text": "hello"}, usageMetadata=usage))
    assert made.usage == Usage(input=11, output=5, reasoning=5)


async def test_ids_that_are_missing_are_made_up_and_differ_between_answers() -> None:
    call = {"functionCall": {"name": "now"}}
    ids = set()
    for head in ({}, {"responseId": "r-1"}, {"responseId": "r_2="}):
        made = await answered(response("STOP", call, call, **head))
        assert made.finish_reason == "tool_calls"
        ids |= {found["id"] for found in made.message["tool_calls"]}
        assert made.body["id"]
    assert len(ids) == 6
    assert all(len(one) <= 40 and one.replace("-", "_").replace("_", "").isalnum() for one in ids)
    assert {"call_r-1_0", "call_r-1_1", "call_r_2_0"} <= ids


async def test_what_the_answer_signed_can_be_sent_back() -> None:
    part = {"functionCall": {"name": "now", "args": {}}, "thoughtSignature": "c2lnbmVk"}
    made = await answered(response("STOP", part, responseId="r"))
    result = {"role": "tool", "tool_call_id": "call_r_0", "content": "noon"}
    again = request_body(Chat("gemini-3-flash", {"messages": [made.message, result]}))["contents"]
    assert again[0]["parts"][0]["thoughtSignature"] == "c2lnbmVk"
    assert again[1]["parts"][0]["functionResponse"]["name"] == "now"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-flash", "/models/gemini-3-flash"),
        ("models/gemini-3-flash", "/models/gemini-3-flash"),
        ("tunedModels/mine", "/tunedModels/mine"),
        ("../files/a?b#c", "/models/..%2Ffiles%2Fa%3Fb%23c"),
    ],
)
async def test_the_key_goes_in_a_header_and_the_model_in_the_path(model: str, path: str) -> None:
    chat = Chat(model, CHAT.body)
    handles = (http(200, TEXT.answer), sse(TEXT.stream))
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        one = GoogleProvider("google", running.url + "/", KeyRing([KEY]), session)
        await one.complete(chat, SOON)
        assert [piece async for piece in one.stream(chat, SOON)]
    assert [asked.line for asked in running.asked] == [
        f"POST {path}:generateContent HTTP/1.1",
        f"POST {path}:streamGenerateContent?alt=sse HTTP/1.1",
    ]
    for request in running.asked:
        assert request.headers["x-goog-api-key"] == KEY
        assert "authorization" not in request.headers
        assert request.json == request_body(chat)


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_the_sdk_sends_and_reads_the_same() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "weather", "description": "Of a city.", "parameters": schema}
    asked_for = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 16,
        "stop": ["a"],
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        temperature=0.5,
        max_output_tokens=16,
        stop_sequences=["a"],
        tools=[
            types.Tool(
                function_declarations=[
                    types.FunctionDeclaration(
                        name="weather", description="Of a city.", parameters_json_schema=schema
                    )
                ]
            )
        ],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
        ),
        response_mime_type="application/json",
        response_json_schema=schema,
    )
    handles = (http(200, TEXT.answer), sse(TEXT.stream), http(200, TEXT.answer), sse(TEXT.stream))
    async with socket(*handles) as running, aiohttp.ClientSession() as session:
        ours = GoogleProvider("google", f"{running.url}/v1beta", KeyRing([KEY]), session)
        await ours.complete(Chat("gemini-3-flash", asked_for), Limits(1.0))
        _ = [piece async for piece in ours.stream(Chat("gemini-3-flash", asked_for), Limits(1.0))]
        options = types.HttpOptions(base_url=running.url, api_version="v1beta")
        async with genai.Client(api_key=KEY, http_options=options).aio as sdk:
            made = await sdk.models.generate_content(model="gemini-3-flash", contents="hi", config=config)
            assert made.text == TEXT.said.content
            pieces = await sdk.models.generate_content_stream(
                model="gemini-3-flash", contents="hi", config=config
            )
            assert "".join([piece.text or "" async for piece in pieces]) == TEXT.said.content
    sent = running.asked
    assert [asked.line for asked in sent[:2]] == [asked.line for asked in sent[2:]]
    assert {asked.headers["x-goog-api-key"] for asked in sent} == {KEY}
    ours_sent, theirs = sent[0].json, sent[2].json
    theirs["systemInstruction"].pop("role", None)
    (declared,) = theirs["tools"][0]["functionDeclarations"]
    declared["parametersJsonSchema"] = declared.pop("parameters_json_schema")  # protobuf's JSON takes both
    assert ours_sent == theirs
