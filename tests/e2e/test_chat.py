"""Chats of the running platform: a real model behind the route, by OpenAI's own SDK."""

import json
import os
import signal
import time
from typing import Any

import openai
import pytest

from support.platform import RunningPlatform

pytestmark = pytest.mark.platform
HELLO: Any = [{"role": "user", "content": "Say hello in one short sentence."}]
LONG: Any = [{"role": "user", "content": "Count slowly from one to two hundred, in words."}]


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Any:
    with openai.OpenAI(
        base_url=platform.url("gateway", "/v1"), api_key=platform.key, max_retries=0
    ) as client:
        _wait_for_the_model(client)
        yield client


def _wait_for_the_model(client: openai.OpenAI) -> None:
    """Other tests of the platform may have taken its core, and opened the model's breaker."""
    for _ in range(15):
        try:
            client.chat.completions.create(model="route/chat", messages=HELLO, max_tokens=1)
        except openai.InternalServerError:
            time.sleep(2)
        else:
            return


def test_a_real_model_answers_and_what_it_streams_is_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "route/chat", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    assert whole.model == "smollm2"
    assert whole.usage
    assert whole.usage.completion_tokens > 0
    options: Any = {"include_usage": True}
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_decoding_is_held_to_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 9}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    made = client.chat.completions.create(
        model="route/chat", messages=HELLO, response_format=wanted, max_tokens=32, temperature=0
    )
    assert isinstance(json.loads(made.choices[0].message.content or "")["n"], int)


def test_a_feature_is_a_model(client: openai.OpenAI, platform: RunningPlatform) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="feature/ticket-triage",
        messages=[{"role": "user", "content": "How do I change my PIN?"}],
        user="u-1",
    )
    assert json.loads(raw.parse().choices[0].message.content or "") == {"label": "change_pin"}
    made = raw.headers["x-trivium-inference-id"]
    assert platform.call(f"/v1/inferences/{made}").body["served_by"]["variant"] == "edge-v1"


def test_a_feature_streams_over_sse(platform: RunningPlatform, client: openai.OpenAI) -> None:
    body = {
        "input": {"text": "My card was stolen on the train. Block it at once."},
        "subject": {"id": "u-1"},
        "mode": "stream",
    }
    raw = client.post("/features/ticket-summary/infer", cast_to=str, body=body)
    names = [line.removeprefix("event: ") for line in raw.splitlines() if line.startswith("event: ")]
    assert names[0] == "begin"
    assert names.count("delta") >= 1  # pieces that came together go out together
    assert names[-1] == "done"


def test_a_model_that_is_killed_in_mid_stream_ends_the_stream_in_an_error(
    client: openai.OpenAI, platform: RunningPlatform
) -> None:
    no_end: Any = {"ignore_eos": True}  # llama.cpp's: the model goes on until `max_tokens`
    stream = client.chat.completions.create(
        model="route/chat", messages=LONG, max_tokens=900, stream=True, extra_body=no_end
    )
    seen = [next(stream) for _ in range(5)]
    os.kill(platform.child("llm").pid, signal.SIGKILL)
    with pytest.raises(openai.APIError) as caught:
        seen.extend(stream)
    assert all(piece.choices[0].finish_reason is None for piece in seen)
    assert "connection" in str(caught.value.body)
    until = time.monotonic() + 30
    while True:  # until the model is back, and its breaker has seen it
        try:
            assert client.chat.completions.create(model="route/chat", messages=HELLO, max_tokens=5).choices
            break
        except openai.APIStatusError:
            assert time.monotonic() < until
            time.sleep(0.3)
