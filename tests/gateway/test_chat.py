"""`/v1/chat/completions` by OpenAI's own SDK, with nothing but its address and its key changed."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from support.broken_provider import TEXT, USAGE, BrokenProvider, Call
from support.chat_gateway import ChatGateway, chat_gateway

HELLO: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
    },
}


async def _calls_a_tool(call: Call) -> None:
    function = {"name": "look_up", "arguments": '{"order": "A-1"}'}
    made = {"id": "call-1", "type": "function", "function": function}
    if not call.streams:
        await call.completion("", "tool_calls", content=None, tool_calls=[made])
        return
    await call.open()
    await call.piece({"role": "assistant", "content": None})
    begun = {"name": "look_up", "arguments": ""}
    await call.piece({"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": begun}]})
    for part in ('{"order": ', '"A-1"}'):
        await call.piece({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    await call.finish("tool_calls")


async def _label(call: Call) -> None:
    await call.completion('{"label": "greeting"}')


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[BrokenProvider]:
    async with BrokenProvider({"tools": _calls_a_tool, "label": _label}) as provider:
        yield provider


@pytest.fixture(scope="module")
async def gateway(
    provider: BrokenProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ChatGateway]:
    def target(model: str, **more: Any) -> dict[str, Any]:
        return {"provider": "openai", "model": model, "base_url": provider.url, **more}

    price = {"input_usd": 1.0, "output_usd": 10.0}
    routes = {
        "route/good": {"targets": [target("good")]},
        "route/tools": {"targets": [target("tools")]},
        "route/label": {"targets": [target("label", price=price)]},
        "route/priced": {"targets": [target("priced", price=price)]},
        "route/kept": {"targets": [target("good")], "payload": "full"},
        "route/no-key": {"targets": [{"provider": "anthropic", "model": "claude-haiku-4-5"}]},
    }
    async with chat_gateway(tmp_path_factory.mktemp("chat"), routes) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def client(gateway: ChatGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.secret, max_retries=0
    ) as client:
        yield client


async def test_a_chat_is_answered(client: openai.AsyncOpenAI, provider: BrokenProvider) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="route/good", messages=HELLO, temperature=0.5, seed=7
    )
    made = raw.parse()
    assert made.choices[0].message.content == TEXT
    assert made.model == "good"
    assert made.usage
    assert made.usage.prompt_tokens == USAGE["prompt_tokens"]
    sent = provider.of("good")[-1].body
    assert sent == {"model": "good", "messages": HELLO, "temperature": 0.5, "seed": 7}
    assert made.id == f"chatcmpl-{raw.headers['x-trivium-inference-id']}"
    assert raw.headers["x-trivium-degraded"] == "false"
    assert float(raw.headers["x-trivium-overhead-ms"]) >= 0
    assert 0 < int(raw.headers["x-trivium-deadline-left-ms"]) < int(raw.headers["x-trivium-deadline-ms"])
    assert "x-trivium-cost-usd" not in raw.headers  # its price is not known


async def test_the_synchronous_client_works_too(gateway: ChatGateway) -> None:
    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.secret) as client:
            whole = client.chat.completions.create(model="route/good", messages=HELLO)
            pieces = client.chat.completions.create(model="route/good", messages=HELLO, stream=True)
            return whole.choices[0].message.content, "".join(p.choices[0].delta.content or "" for p in pieces)

    assert await asyncio.to_thread(ask) == (TEXT, TEXT)


async def test_a_stream_has_one_id_one_role_and_the_usage_only_if_it_is_wanted(
    client: openai.AsyncOpenAI,
) -> None:
    for wanted in (False, True):
        options: Any = {"stream_options": {"include_usage": True}} if wanted else {}
        stream = await client.chat.completions.create(
            model="route/good", messages=HELLO, stream=True, **options
        )
        pieces = [piece async for piece in stream]
        assert len({piece.id for piece in pieces}) == 1
        choices = [piece.choices[0] for piece in pieces if piece.choices]
        assert "".join(choice.delta.content or "" for choice in choices) == TEXT
        assert [c.delta.role for c in choices if c.delta.role] == ["assistant"]
        assert choices[-1].finish_reason == "stop"
        assert [piece.usage.total_tokens for piece in pieces if piece.usage] == ([20] if wanted else [])


@pytest.mark.parametrize("streams", [False, True])
async def test_tools_are_passed_through(
    client: openai.AsyncOpenAI, provider: BrokenProvider, streams: bool
) -> None:
    if streams:
        made = await client.chat.completions.create(
            model="route/tools", messages=HELLO, tools=[TOOL], stream=True
        )
        arguments = ""
        async for piece in made:
            for call in piece.choices[0].delta.tool_calls or ():
                assert call.function
                arguments += call.function.arguments or ""
    else:
        whole = await client.chat.completions.create(model="route/tools", messages=HELLO, tools=[TOOL])
        assert whole.choices[0].finish_reason == "tool_calls"
        made_call = (whole.choices[0].message.tool_calls or [None])[0]  # type: ignore[list-item]
        assert isinstance(made_call, ChatCompletionMessageFunctionToolCall)
        arguments = made_call.function.arguments
    assert json.loads(arguments) == {"order": "A-1"}
    assert provider.of("tools")[-1].body["tools"] == [TOOL]


async def test_a_parsed_answer_comes_back_as_a_model(client: openai.AsyncOpenAI) -> None:
    class Label(BaseModel):
        label: str

    made = await client.chat.completions.parse(model="route/label", messages=HELLO, response_format=Label)
    assert made.choices[0].message.parsed == Label(label="greeting")


async def test_a_known_price_is_told_and_recorded(gateway: ChatGateway) -> None:
    async with gateway.ask("route/priced", user="u-7") as response:
        await response.read()
    cost = (11 * 1.0 + 9 * 10.0) / 1e6
    assert float(response.headers["x-trivium-cost-usd"]) == pytest.approx(cost)
    (row,) = [r for r in await gateway.inferences() if r["feature"] == "route/priced"]
    assert row["cost_usd"] == pytest.approx(cost)
    assert (row["subject_id"], row["status"], row["degraded"]) == ("u-7", "done", False)


async def test_an_answer_can_be_read_back_and_has_feedback(gateway: ChatGateway) -> None:
    async with gateway.ask("route/kept", "remember me") as response:
        await response.read()
    made = response.headers["x-trivium-inference-id"]
    async with gateway.session.get(f"{gateway.url}/v1/inferences/{made}") as back:
        found = await back.json()
    assert found["output"]["message"]["content"] == TEXT
    event = {"inference_id": made, "kind": "thumbs_up"}
    headers = {"Idempotency-Key": made}
    async with gateway.session.post(f"{gateway.url}/v1/feedback", json=event, headers=headers) as taken:
        assert taken.status == 201


async def test_a_feature_answers_a_chat_and_is_recorded_as_itself(
    client: openai.AsyncOpenAI, gateway: ChatGateway
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="feature/echo", messages=[{"role": "user", "content": "hello there"}], user="u-1"
    )
    made = raw.parse()
    assert json.loads(made.choices[0].message.content or "") == {"label": "greeting"}
    assert raw.headers["x-trivium-arm"] == "treatment"
    rows = {row["id"]: row for row in await gateway.inferences()}
    row = rows[raw.headers["x-trivium-inference-id"]]
    assert (row["feature"], row["input"], row["variant"]) == ("echo", {"text": "hello there"}, "llm-v1")
    assert row["cost_usd"] > 0
    stream = await client.chat.completions.create(
        model="feature/echo", messages=[{"role": "user", "content": '{"text": "hi"}'}], stream=True
    )
    text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
    assert json.loads(text) == {"label": "greeting"}


async def test_the_models_are_listed_and_nothing_of_what_stands_behind_them(
    client: openai.AsyncOpenAI, provider: BrokenProvider
) -> None:
    listed = [model async for model in client.models.list()]
    assert {"route/good", "route/tools", "feature/echo"} <= {model.id for model in listed}
    assert provider.url not in repr(listed)


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"model": "route/absent"}, openai.NotFoundError, None),
        ({"model": "feature/absent"}, openai.NotFoundError, None),
        ({"model": 7}, openai.BadRequestError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": ["hi"]}, openai.BadRequestError, "messages[0]"),
        ({"stream": "yes"}, openai.BadRequestError, "stream"),
        ({"n": 0}, openai.BadRequestError, "n"),
        (
            {"model": "feature/echo", "messages": [{"role": "user", "content": "{}"}]},
            openai.BadRequestError,
            "input",
        ),
        ({"model": "route/no-key"}, openai.InternalServerError, None),
    ],
)
async def test_what_is_wrong_is_told_in_openais_shape(
    client: openai.AsyncOpenAI, change: dict[str, Any], error: type[openai.APIStatusError], param: str | None
) -> None:
    given: Any = {"model": "route/good", "messages": HELLO, **change}
    with pytest.raises(error) as caught:
        await client.post("/chat/completions", cast_to=object, body=given)
    told = caught.value.body
    assert isinstance(told, dict)
    assert told["message"]
    assert told["param"] == param


@pytest.mark.parametrize("secret", ["trv_wrong", "", "service"])
async def test_without_a_valid_key_nothing_is_answered(gateway: ChatGateway, secret: str) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    async with gateway.ask("route/good", headers=headers) as response:
        body = await response.json()
    assert response.status == 401
    assert body["error"]["code"] == "invalid_api_key"


async def test_bad_bodies_are_refused_in_the_same_shape(gateway: ChatGateway) -> None:
    for body, status in ((b"{", 400), (b"[]", 400), (b"[" * 200, 400), (b'{"model": "\xff"}', 400)):
        async with gateway.session.post(f"{gateway.url}/v1/chat/completions", data=body) as response:
            told = await response.json()
        assert response.status == status
        assert told["error"]["type"] == "invalid_request_error"
    large = b" " * (gateway.state.settings.chat_max_body_bytes + 1)
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", data=io.BytesIO(large)) as response:
        assert response.status == 413
        assert (await response.json())["error"]["trivium_code"] == "too_large"


async def test_routes_are_read_anew_and_a_bad_file_keeps_them(gateway: ChatGateway) -> None:
    before = gateway.routes_file.read_text()
    try:
        gateway.routes_file.write_text("routes: {route/x: {targets: []}}")
        await asyncio.sleep(1.5)
        assert (await gateway.said("route/good"))[0] == 200
        gateway.routes_file.write_text(before.replace("route/kept", "route/renamed"))
        async with asyncio.timeout(5):
            while (await gateway.said("route/renamed"))[0] != 200:
                await asyncio.sleep(0.1)
        assert (await gateway.said("route/kept"))[0] == 404
    finally:
        gateway.routes_file.write_text(before)
        async with asyncio.timeout(5):
            while (await gateway.said("route/kept"))[0] != 200:
                await asyncio.sleep(0.1)


async def test_a_routes_key_is_in_no_answer_and_no_listing(tmp_path: Path) -> None:
    async def leaky(call: Call) -> None:
        await call.error(400, f"bad request with {call.asked.headers['authorization']}")

    (tmp_path / "keys").write_text("sk-first\nsk-second\n")
    async with BrokenProvider({"leaky": leaky}) as provider:
        target = {"provider": "openai", "model": "leaky", "base_url": provider.url}
        routes = {"route/leaky": {"targets": [{**target, "api_key_file": str(tmp_path / "keys")}]}}
        async with chat_gateway(tmp_path / "gateway", routes) as gateway:
            _, _, body = await gateway.said("route/leaky")
            assert provider.of("leaky")[0].headers["authorization"] == "Bearer sk-first"
            assert "sk-first" not in json.dumps(body)
            assert "[key]" in body["error"]["message"]
