"""What only OpenAI has: refused where it would be missed in the answer, and left out where it would not."""

from collections.abc import Callable
from typing import Any

import pytest

from trivium.errors import RequestRefused
from trivium.llm import anthropic_request, google_request
from trivium.llm.provider import Chat

HI = {"role": "user", "content": "hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
BODIES: dict[str, Callable[[Chat], dict[str, Any]]] = {
    "anthropic": anthropic_request.request_body,
    "google": google_request.request_body,
}
each_vendor = pytest.mark.parametrize("vendor", BODIES)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n = '2'"),
    ({"logprobs": True}, "logprobs = 'True'"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"response_format": {"type": "grammar"}}, r"response_format\.type = 'grammar'"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, r"tools\.type = 'custom'"),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, r"messages\.role = 'function'"),
]


@each_vendor
@pytest.mark.parametrize(("given", "named"), REFUSED, ids=[str(next(iter(g))) for g, _ in REFUSED])
def test_what_would_be_missed_in_the_answer_is_refused_by_its_name(
    given: dict[str, Any], named: str, vendor: str
) -> None:
    with pytest.raises(RequestRefused, match=f"does not take {named}"):
        BODIES[vendor](Chat("m", {"messages": [HI], **given}))


@each_vendor
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video", "video": {}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "image_url", "image_url": {"url": "ftp://x.org/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,raw"}},
    ],
)
def test_a_part_that_the_vendor_cannot_read_is_refused(part: dict[str, Any], vendor: str) -> None:
    with pytest.raises(RequestRefused, match=r"does not take messages\.content"):
        BODIES[vendor](Chat("m", {"messages": [{"role": "user", "content": [part]}]}))


@each_vendor
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": ["hi"]},
        {"messages": [{"content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [HI], "max_tokens": "many"},
        {"messages": [HI], "tools": [{"type": "function"}]},
        {"messages": [HI], "response_format": {"type": "json_schema"}},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}, 7]}]},
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[1"}}],
                }
            ]
        },
    ],
)
def test_what_is_no_chat_is_refused(body: dict[str, Any], vendor: str) -> None:
    with pytest.raises(RequestRefused, match="not the shape of a chat completion"):
        BODIES[vendor](Chat("m", body))


@each_vendor
def test_what_asks_for_nothing_or_is_openais_own_is_left_out(vendor: str) -> None:
    given: dict[str, Any] = {
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "modalities": ["text"],
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "reasoning_effort": "low",
        "verbosity": "low",
        "prompt_cache_key": "k",
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
    }
    made = BODIES[vendor]
    assert made(Chat("m", {"messages": [HI], **given})) == made(Chat("m", {"messages": [HI]}))
