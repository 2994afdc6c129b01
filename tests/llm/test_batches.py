"""Batch APIs: both vendors' wires on a fake that the official SDKs understand and that breaks on demand."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import BatchCreateParams as AnthropicParams
from anthropic.types.messages.batch_create_params import Request as AnthropicRequest
from openai.types import Batch, FileObject
from openai.types.batch_create_params import BatchCreateParams as OpenAIParams
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from support.sdk_types import conforms, strictly
from support.vendor import KEY, Answer, Fate, Fault, Refusal, Vendor
from trivium.domain.inference import Usage
from trivium.errors import (
    AccessDenied,
    ConnectionFailed,
    ContextOverflow,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.llm.anthropic_batches import AnthropicBatches
from trivium.llm.batches import BatchItem, BatchOutcome, BatchProvider, BatchStatus, NotRun
from trivium.llm.keyring import KeyRing
from trivium.llm.openai_batches import OpenAIBatches
from trivium.llm.provider import Completion, Message, asked, text_of
from trivium.llm.wire import Wire

MODEL = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-5-5"}
CREATE = {"openai": "POST /v1/batches", "anthropic": "POST /v1/messages/batches"}
GET = {"openai": "GET /v1/batches/{id}", "anthropic": "GET /v1/messages/batches/{id}"}
RESULTS = {"openai": "GET /v1/files/{id}/content", "anthropic": "GET /v1/messages/batches/{id}/results"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["label"],
    "properties": {"label": {"type": "string"}},
    "additionalProperties": False,
}
HEADERS = {"Authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with Vendor() as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture(params=["openai", "anthropic"])
def batches(request: pytest.FixtureRequest, vendor: Vendor, session: aiohttp.ClientSession) -> BatchProvider:
    return made(request.param, vendor, session)


def made(
    name: str,
    vendor: Vendor,
    session: aiohttp.ClientSession,
    keys: Sequence[str] = (KEY,),
    timeout_s: float = 5.0,
) -> BatchProvider:
    if name == "openai":
        return OpenAIBatches(name, vendor.openai_url, KeyRing(keys), session, timeout_s)
    return AnthropicBatches(name, vendor.url, KeyRing(keys), session, timeout_s)


def items(name: str, number: int, text: str = "hi") -> list[BatchItem]:
    turns = [Message("system", "Be brief."), Message("user", text)]
    return [BatchItem(f"item-{n}", asked(MODEL[name], turns, SCHEMA, 0.0, 16)) for n in range(number)]


async def ended(batches: BatchProvider, number: int = 3) -> tuple[str, BatchStatus]:
    batch_id = await batches.submit(items(batches.name, number), "tag")
    return batch_id, await batches.poll(batch_id)


async def outcomes(batches: BatchProvider, batch_id: str) -> dict[str, BatchOutcome]:
    found = [outcome async for outcome in batches.results(batch_id)]
    assert len({outcome.custom_id for outcome in found}) == len(found)
    assert all((outcome.completion is None) != (outcome.error is None) for outcome in found)
    return {outcome.custom_id: outcome for outcome in found}


async def fate(batches: BatchProvider, vendor: Vendor, what: Fate) -> BatchOutcome:
    """What is said of one item with this fate, beside one that went well."""
    vendor.outcomes["item-1"] = what
    batch_id, _ = await ended(batches, 2)
    found = await outcomes(batches, batch_id)
    assert found["item-0"].completion
    return found["item-1"]


async def test_every_item_has_its_completion(batches: BatchProvider, vendor: Vendor) -> None:
    vendor.answer = lambda body: Answer('{"label": "y"}', input=9, output=3, cached=4)
    batch_id, status = await ended(batches)
    assert status == BatchStatus(True, "completed", done=3, failed=0, total=3)
    found = await outcomes(batches, batch_id)
    assert set(found) == {"item-0", "item-1", "item-2"}
    completion = found["item-1"].completion
    assert completion
    assert (text_of(completion, "x"), completion.usage) == ('{"label": "y"}', Usage(9, 3, 4))
    assert completion.model.startswith(MODEL[batches.name])


async def test_a_batch_that_runs_says_so_and_has_no_results_yet(
    batches: BatchProvider, vendor: Vendor
) -> None:
    vendor.running_polls = 3
    batch_id, status = await ended(batches)
    assert (status.ended, status.reason, status.total) == (False, None, 3)
    with pytest.raises(ProviderError, match="has not ended"):
        await outcomes(batches, batch_id)
    await batches.poll(batch_id)
    assert (await batches.poll(batch_id)).ended
    assert len(await outcomes(batches, batch_id)) == 3
    assert vendor.requests[GET[batches.name]] == 5


async def test_what_did_not_run_before_the_batch_expired_can_be_asked_again(
    batches: BatchProvider, vendor: Vendor
) -> None:
    vendor.expire_after = 2
    batch_id, status = await ended(batches, 5)
    assert status == BatchStatus(True, "expired", done=2, failed=3, total=5)
    found = await outcomes(batches, batch_id)
    assert [bool(found[f"item-{n}"].completion) for n in range(5)] == [True, True, False, False, False]
    assert {type(outcome.error) for outcome in found.values()} == {type(None), NotRun}
    error = found["item-4"].error
    assert error
    assert (error.code, error.retryable) == ("provider_error", True)


async def test_what_ran_before_the_batch_was_cancelled_has_its_completion(
    batches: BatchProvider, vendor: Vendor
) -> None:
    vendor.running_polls, vendor.cancel_after = 9, 1
    batch_id, _ = await ended(batches)
    await batches.cancel(batch_id)
    await batches.cancel(batch_id)
    status = await batches.poll(batch_id)
    assert status == BatchStatus(True, "cancelled", done=1, failed=2, total=3)
    found = await outcomes(batches, batch_id)
    assert found["item-0"].completion
    assert type(found["item-2"].error) is NotRun


async def test_to_cancel_what_has_ended_changes_nothing(batches: BatchProvider) -> None:
    batch_id, status = await ended(batches)
    await batches.cancel(batch_id)
    assert await batches.poll(batch_id) == status


async def test_a_cancel_that_fails_says_so(batches: BatchProvider, vendor: Vendor) -> None:
    vendor.running_polls = 9
    batch_id, _ = await ended(batches)
    vendor.faults = [Fault(CREATE[batches.name] + "/{id}/cancel", status=500)]
    with pytest.raises(ProviderError, match="500"):
        await batches.cancel(batch_id)


@pytest.mark.parametrize(
    ("what", "expected", "said"),
    [
        (Refusal(400, "prompt is too long"), ContextOverflow, "prompt is too long"),
        (Refusal(400, "no"), RequestRefused, "no"),
        (Refusal(401, "who are you"), AccessDenied, "who are you"),
        (Refusal(429, "slow down"), RateLimited, "slow down"),
        (Refusal(500, "oops"), ProviderError, "oops"),
        (Refusal(504, "too slow"), ProviderError, "too slow"),
        (Refusal(529, "busy"), Overloaded, "busy"),
        (Answer(stop="length", input=9, output=16, cached=2), ProviderError, "token limit"),
        (Answer(None, stop="content_filter", input=9, output=16, cached=2), PolicyRefused, "declined"),
        ("nonsense", ProviderError, "something else than a result"),
        ("expired", NotRun, "expired"),
        ("cancelled", NotRun, "cancel"),
    ],
)
async def test_every_fault_of_an_item_has_its_name_and_touches_no_other(
    batches: BatchProvider, vendor: Vendor, what: Fate, expected: type[StepError], said: str
) -> None:
    error = (await fate(batches, vendor, what)).error
    assert type(error) is expected
    assert said in error.detail
    assert error.usage == (Usage(9, 16, 2) if isinstance(what, Answer) else None)


async def test_an_item_that_appears_twice_counts_once_and_the_first_time(
    batches: BatchProvider, vendor: Vendor
) -> None:
    assert (await fate(batches, vendor, "twice")).completion


async def test_an_item_that_the_vendor_lost_is_absent(batches: BatchProvider, vendor: Vendor) -> None:
    vendor.outcomes["item-1"] = "absent"
    batch_id, _ = await ended(batches)
    assert set(await outcomes(batches, batch_id)) == {"item-0", "item-2"}


async def test_a_batch_of_which_every_item_failed_has_only_errors(
    batches: BatchProvider, vendor: Vendor
) -> None:
    vendor.answer = lambda body: Refusal(400, "no")
    batch_id, status = await ended(batches)
    assert status == BatchStatus(True, "completed", done=0, failed=3, total=3)
    assert all(outcome.error for outcome in (await outcomes(batches, batch_id)).values())


async def test_an_input_that_openai_does_not_take_fails_with_its_reasons(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    batches = made("openai", vendor, session)
    twice = items("openai", 1) * 2
    batch_id = await batches.submit(twice, "tag")
    status = await batches.poll(batch_id)
    assert (status.ended, status.reason, status.detail) == (True, "failed", "line 2: It was used before.")
    assert await outcomes(batches, batch_id) == {}
    with pytest.raises(RequestRefused, match="of its own"):
        await made("anthropic", vendor, session).submit(twice, "tag")


@pytest.mark.parametrize("custom_id", ["", "a b", "ü", "x" * 65, "a\n", "a/b"])
async def test_an_id_that_anthropic_would_not_take_is_told_before_anything_is_sent(
    vendor: Vendor, session: aiohttp.ClientSession, custom_id: str
) -> None:
    (item,) = items("anthropic", 1)
    with pytest.raises(ValueError, match="custom_id"):
        await made("anthropic", vendor, session).submit([item, BatchItem(custom_id, item.request)], "tag")
    assert not vendor.requests


async def test_a_batch_whose_id_was_lost_is_found_by_its_tag(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    batches = made("openai", vendor, session)
    vendor.faults = [Fault(CREATE["openai"], after=True)]
    with pytest.raises(ConnectionFailed):
        await batches.submit(items("openai", 1), "lost")
    (lost,) = vendor.batches
    for n in range(5):
        await batches.submit(items("openai", 1), f"other-{n}")
    vendor.page_limit = 2
    assert await batches.find("lost") == lost
    assert vendor.requests["GET /v1/batches"] == 3
    assert await batches.find("other-4") == vendor.batches[-1]
    assert vendor.requests["GET /v1/batches"] == 4
    assert await batches.find("never") is None
    assert await made("anthropic", vendor, session).find("lost") is None


async def test_of_two_batches_with_a_tag_the_newest_is_found_and_batches_without_tags_are_passed_over(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    batches = made("openai", vendor, session)
    assert await batches.find("tag") is None
    await batches.submit(items("openai", 1), "tag")
    newest = await batches.submit(items("openai", 1), "tag")
    async with openai.AsyncOpenAI(base_url=vendor.openai_url, api_key=KEY) as sdk:
        file = await sdk.files.create(file=("b.jsonl", b""), purpose="batch")
        await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert await batches.find("tag") == newest


async def test_the_search_for_a_tag_ends(vendor: Vendor, session: aiohttp.ClientSession) -> None:
    batches = made("openai", vendor, session)
    for _ in range(11):
        await batches.submit(items("openai", 1), "other")
    vendor.page_limit = 1
    assert await batches.find("never") is None
    assert vendor.requests["GET /v1/batches"] == 10


@pytest.mark.parametrize("politely", [False, True])
async def test_results_that_are_cut_are_no_results_beyond_the_last_whole_line(
    batches: BatchProvider, vendor: Vendor, politely: bool
) -> None:
    batch_id, _ = await ended(batches, 30)
    vendor.cut_results, vendor.cut_politely = 3000, politely
    found: list[BatchOutcome] = []

    async def collect() -> None:
        async for outcome in batches.results(batch_id):
            found.append(outcome)

    with pytest.raises(ConnectionFailed):
        await collect()
    assert 0 < len(found) < 30
    assert all(
        outcome.completion and text_of(outcome.completion, "x") == '{"label": "x"}' for outcome in found
    )
    vendor.cut_results = None
    assert len(await outcomes(batches, batch_id)) == 30


async def test_a_long_answer_is_read_whole_and_an_endless_line_is_not(
    batches: BatchProvider, vendor: Vendor
) -> None:
    completion = (await fate(batches, vendor, Answer("ü" * 300_000))).completion
    assert isinstance(completion, Completion)
    assert len(text_of(completion, "x")) == 300_000
    vendor.outcomes["item-1"] = Answer("x" * 9 * 2**20)
    batch_id, _ = await ended(batches, 2)
    with pytest.raises(ProviderError, match="a line of more than"):
        await outcomes(batches, batch_id)


async def test_a_line_is_passed_on_before_the_next_has_come(session: aiohttp.ClientSession) -> None:
    seen = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"n": 1}\n\n{"n"')
        await seen.wait()
        writer.write(b": 2}")  # the last line has no end, and none is needed
        writer.close()

    server = await asyncio.start_server(slowly, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    found = []
    async with server, aclosing(Wire("x", session, KeyRing()).lines(url, 5)) as lines:
        async for line in lines:
            found.append(line)
            seen.set()
    assert found == [{"n": 1}, {"n": 2}]


async def test_results_that_are_no_results_are_an_error(batches: BatchProvider, vendor: Vendor) -> None:
    batch_id, _ = await ended(batches)
    for junk in (b"<html>\n", b"[]\n", b'{"custom_id": 7}\n', b"{}\n"):
        vendor.results = junk
        with pytest.raises(ProviderError, match="something else"):
            await outcomes(batches, batch_id)


async def test_the_key_goes_to_the_vendors_own_host_only(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    batches = made("anthropic", vendor, session)
    batch_id, _ = await ended(batches)
    async with Vendor() as other:
        for base in (other.url, "https://127.0.0.1:1", "http://[", "nonsense"):
            vendor.results_base = base
            assert len(await outcomes(batches, batch_id)) == 3
        assert not other.requests
    assert vendor.requests[RESULTS["anthropic"]] == 4
    vendor.results_base = f"{vendor.url}/elsewhere"
    with pytest.raises(AccessDenied, match="404"):
        await outcomes(batches, batch_id)
    assert vendor.requests[f"GET /elsewhere/v1/messages/batches/{batch_id}/results"] == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 429, "retry_after": "7"}, RateLimited),
        ({"status": 529}, Overloaded),
        ({"status": 503}, Overloaded),
        ({"status": 500}, ProviderError),
        ({"status": 400}, RequestRefused),
        ({"status": 401, "message": f"Incorrect API key provided: {KEY}"}, AccessDenied),
        ({}, ConnectionFailed),
        ({"silent_s": 0.5}, StepTimeout),
    ],
)
async def test_every_fault_of_a_call_has_its_name_and_never_the_key(
    vendor: Vendor, session: aiohttp.ClientSession, fault: dict[str, Any], expected: type[StepError]
) -> None:
    for name in MODEL:
        batch_id, _ = await ended(made(name, vendor, session))
        calls: dict[str, Callable[[BatchProvider], Awaitable[object]]] = {
            GET[name]: lambda batches, known=batch_id: batches.poll(known),  # type: ignore[misc]
            RESULTS[name]: partial(outcomes, batch_id=batch_id),
        }
        if "silent_s" not in fault:  # uploads may take long
            calls[CREATE[name]] = lambda batches: batches.submit(items(batches.name, 1), "tag")
        if name == "openai":
            calls["GET /v1/batches"] = lambda batches: batches.find("x")
        for path, call in calls.items():
            vendor.faults = [Fault(path, **fault, times=2)]  # aiohttp repeats a GET on a broken connection
            fresh = made(name, vendor, session, timeout_s=0.2)  # a key that was limited rests
            with pytest.raises(StepError) as caught:
                await call(fresh)
            assert type(caught.value) is expected, path
            assert KEY not in str(caught.value)
            assert caught.value.retry_after_s == (7 if expected is RateLimited else None)


async def test_a_batch_that_is_not_known_and_a_key_that_is_wrong_are_refused(
    batches: BatchProvider, vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    for unknown in ("batch_nowhere", "../files", "a?b#c"):
        for call in (batches.poll(unknown), batches.cancel(unknown), outcomes(batches, unknown)):
            with pytest.raises(AccessDenied, match="404"):
                await call
    for keys in (["sk-wrong"], []):
        stranger = made(batches.name, vendor, session, keys)
        with pytest.raises(AccessDenied, match="401"):
            await stranger.submit(items(batches.name, 1), "tag")


async def test_what_is_sent_is_what_the_sdks_would_send(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    for name in MODEL:
        await made(name, vendor, session).submit(items(name, 2, "Grüße\n\u2028"), "the-tag")
    sent = dict(vendor.bodies)
    lines = [body for path, body in vendor.bodies if path == "POST /v1/files"]
    assert [line["custom_id"] for line in lines] == ["item-0", "item-1"]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    for line in lines:
        conforms(CompletionCreateParamsNonStreaming, line["body"])
        assert line["body"]["messages"][1]["content"] == "Grüße\n\u2028"
    conforms(OpenAIParams, sent["POST /v1/batches"])
    assert sent["POST /v1/batches"]["metadata"] == {"trivium_tag": "the-tag"}
    conforms(AnthropicParams, sent["POST /v1/messages/batches"])
    for request in sent["POST /v1/messages/batches"]["requests"]:
        conforms(AnthropicRequest, request)
        conforms(MessageCreateParamsNonStreaming, request["params"])
    lengths = {path: headers.get("Content-Length") for path, headers in vendor.headers}
    assert all(int(lengths[path] or 0) > 100 for path in ("POST /v1/files", "POST /v1/messages/batches"))


async def test_a_large_batch_is_sent_and_read_as_a_stream(batches: BatchProvider, vendor: Vendor) -> None:
    batch_id = await batches.submit(items(batches.name, 400, "ü" * 5000), "tag")
    assert (await batches.poll(batch_id)).done == 400
    assert len(await outcomes(batches, batch_id)) == 400


async def test_the_vendor_says_what_the_sdks_models_expect(
    vendor: Vendor, session: aiohttp.ClientSession
) -> None:
    fates: list[Fate] = [Answer(), Refusal(400), Refusal(529), Refusal(500), "expired", "cancelled"]
    vendor.outcomes = {f"item-{n}": fate for n, fate in enumerate(fates)}
    vendor.outcomes["item-6"] = Answer(None, stop="content_filter")

    async def raw(method: str, path: str) -> bytes:
        async with session.request(method, f"{vendor.url}{path}", headers=HEADERS) as response:
            assert response.status == 200
            return await response.read()

    for name, model, path in (
        ("openai", Batch, "/v1/batches"),
        ("anthropic", MessageBatch, "/v1/messages/batches"),
    ):
        for ending in ("completed", "expired", "cancelled"):
            vendor.expire_after = 1 if ending == "expired" else None
            vendor.running_polls = 1
            batch_id = await made(name, vendor, session).submit(items(name, 7), "tag")
            strictly(model, await raw("GET", f"{path}/{batch_id}"))
            if ending == "cancelled":
                strictly(model, await raw("POST", f"{path}/{batch_id}/cancel"))
            seen = strictly(model, await raw("GET", f"{path}/{batch_id}"))
            if isinstance(seen, Batch):
                assert seen.status == ending
                for file_id in filter(None, (seen.output_file_id, seen.error_file_id)):
                    for line in (await raw("GET", f"/v1/files/{file_id}/content")).splitlines():
                        response = json.loads(line)["response"]
                        if response and response["status_code"] == 200:
                            strictly(ChatCompletion, json.dumps(response["body"]).encode())
            else:
                lines = (await raw("GET", f"{path}/{batch_id}/results")).splitlines()
                assert len(lines) == 7
                for line in lines:
                    strictly(MessageBatchIndividualResponse, line)
    vendor.invalid = [{"code": "invalid_json_line", "message": "no", "line": 1, "param": None}]
    failed = await made("openai", vendor, session).submit(items("openai", 1), "tag")
    assert strictly(Batch, await raw("GET", f"/v1/batches/{failed}")).status == "failed"


async def test_openais_sdk_takes_the_vendor_for_openai(vendor: Vendor) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    }
    async with openai.AsyncOpenAI(base_url=vendor.openai_url, api_key=KEY, max_retries=0) as sdk:
        file = await sdk.files.create(file=("b.jsonl", json.dumps(line).encode()), purpose="batch")
        assert isinstance(file, FileObject)
        assert file.bytes == len(json.dumps(line))
        vendor.running_polls, vendor.page_limit = 1, 1
        for _ in range(3):
            await sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        listed = [batch.id async for batch in sdk.batches.list()]
        assert listed == vendor.batches[::-1]
        first, second, _ = listed
        assert (await sdk.batches.retrieve(first)).status == "in_progress"
        done = await sdk.batches.retrieve(first)
        assert done.status == "completed"
        assert done.output_file_id
        (result,) = (await sdk.files.content(done.output_file_id)).text.splitlines()
        assert json.loads(result)["custom_id"] == "a"
        assert (await sdk.batches.cancel(second)).status == "cancelling"
        assert (await sdk.batches.retrieve(second)).status == "cancelled"
        with pytest.raises(openai.ConflictError):
            await sdk.batches.cancel(second)
        with pytest.raises(openai.NotFoundError):
            await sdk.batches.retrieve("batch_nowhere")
        chat = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == '{"label": "x"}'
        vendor.faults = [Fault("POST /v1/chat/completions", status=429, retry_after="1")]
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="m", messages=[])


async def test_anthropics_sdk_takes_the_vendor_for_anthropic(vendor: Vendor) -> None:
    params: MessageCreateParamsNonStreaming = {
        "model": "claude-haiku-5-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
    }
    requests: list[AnthropicRequest] = [{"custom_id": c, "params": params} for c in ("a", "b", "c")]
    vendor.outcomes = {"b": Refusal(529), "c": "expired"}
    vendor.running_polls = 1
    async with anthropic.AsyncAnthropic(base_url=vendor.url, api_key=KEY, max_retries=0) as sdk:
        batch = await sdk.messages.batches.create(requests=requests)
        assert batch.processing_status == "in_progress"
        with pytest.raises(anthropic.AnthropicError, match="results_url"):
            await sdk.messages.batches.results(batch.id)
        results = {r.custom_id: r.result async for r in await sdk.messages.batches.results(batch.id)}
        assert {c: r.type for c, r in results.items()} == {
            "a": "succeeded",
            "b": "errored",
            "c": "expired",
        }
        second = await sdk.messages.batches.create(requests=requests)
        assert (await sdk.messages.batches.cancel(second.id)).processing_status == "canceling"
        assert (await sdk.messages.batches.retrieve(second.id)).request_counts.canceled == 3
        with pytest.raises(anthropic.NotFoundError):
            await sdk.messages.batches.retrieve("msgbatch_nowhere")


def test_the_vendor_serves_callers_of_another_thread_too() -> None:
    async def call(url: str) -> BatchStatus:
        async with aiohttp.ClientSession() as session:
            batches = OpenAIBatches("openai", url, KeyRing([KEY]), session)
            return (await ended(batches))[1]

    with Vendor() as running:
        assert asyncio.run(call(running.openai_url)).done == 3
        running.running_s = 60
        assert not asyncio.run(call(running.openai_url)).ended
        running.end(running.batches[-1])
