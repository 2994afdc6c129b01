"""A feature whose answers the worker computes ahead: missing, generated, fresh, stale, corrected."""

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.platform import RunningPlatform, free_offset

pytestmark = pytest.mark.platform
VARIANT = """
variants:
  stored-v1: {pattern: precomputed, archive: inbox, compute: {variants: [edge-v1]}}
"""


@pytest.fixture(scope="module")
def stored(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform of its own, on which ticket-triage serves stored results and has no other step."""
    folder = tmp_path_factory.mktemp("stored")
    features = folder / "features"
    shutil.copytree(root / "features", features)
    shutil.rmtree(features / "similar-tickets")
    manifest = features / "ticket-triage/feature.yaml"
    text = manifest.read_text().replace("\nvariants:\n", VARIANT, 1)
    text = text.replace("serve: edge-v1\nfallback: [llm-v1, ", "serve: stored-v1\nfallback: [")
    manifest.write_text(text.replace("example:\n", "example:\n  entity_key: M-1\n"))
    running = RunningPlatform(folder / "state", free_offset(), env={"TRIVIUM_FEATURES_DIR": str(features)})
    try:
        yield running.start()
    finally:
        running.stop()


def _ask(platform: RunningPlatform, key: str, text: str, **more: Any) -> Any:
    body = {"entity_key": key, "input": {"text": text}, "subject": {"id": "u-1"}, **more}
    return platform.call("/v1/features/ticket-triage/infer", body)


def _fresh(platform: RunningPlatform, key: str, text: str) -> dict[str, Any]:
    """The answer, as soon as it is fresh."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        answer = _ask(platform, key, text)
        if answer.status == 200 and not answer.body["stale"]:
            found: dict[str, Any] = answer.body
            return found
        time.sleep(0.1)
    raise AssertionError(f"{answer}\n{platform.shown()}")


def _refreshes(platform: RunningPlatform) -> float:
    lines = platform.call("/metrics", service="gateway", key=platform.service_key).body.splitlines()
    found = [line for line in lines if line.startswith("trivium_refreshes_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_what_is_missing_is_generated_and_the_placeholder_says_so(stored: RunningPlatform) -> None:
    answer = _ask(stored, "M-10", "How do I change my PIN?")
    assert answer.status == 202
    assert answer.body["status"] == "generating"
    assert answer.body["placeholder"] == {"label": "general-queue"}
    assert answer.body["fallback_reason"] == "result_missing"
    assert answer.headers["location"] == f"/v1/inferences/{answer.body['inference_id']}"
    assert int(answer.headers["retry-after"]) >= 1
    until = time.monotonic() + 30
    while (found := stored.call(answer.headers["location"])).status == 202:
        assert time.monotonic() < until, stored.shown()
        time.sleep(0.1)
    assert found.body["status"] == "done"
    assert found.body["output"] == {"label": "change_pin"}
    assert found.body["degraded"] is False
    assert found.body["served_by"]["step"] == "stored-v1"
    time.sleep(0.5)  # it was stored: what is read now does not come from a newer result
    assert stored.call(answer.headers["location"]).body == found.body


def test_events_tell_when_it_is_done(stored: RunningPlatform) -> None:
    made = _ask(stored, "M-11", "My card has not arrived", mode="async").body
    request = urllib.request.Request(
        stored.url("gateway", f"/v1/inferences/{made['inference_id']}/events"),
        headers={"Authorization": f"Bearer {stored.key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [part.splitlines() for part in response.read().decode().strip().split("\n\n")]
    names = [lines[0] for lines in events if lines[0].startswith("event:")]
    assert names == ["event: generating", "event: done"]
    last = json.loads(events[-1][1].removeprefix("data: "))
    assert last["output"]["label"]
    assert last == stored.call(f"/v1/inferences/{made['inference_id']}").body


def test_events_of_an_answer_that_is_there_are_one(stored: RunningPlatform) -> None:
    made = _fresh(stored, "M-12", "How do I change my PIN?")
    answer = stored.call(f"/v1/inferences/{made['inference_id']}/events")
    assert answer.body.count("event: ") == 1
    assert answer.body.startswith("event: done\n")


def test_a_changed_input_is_served_stale_once_and_then_fresh(stored: RunningPlatform) -> None:
    before = _fresh(stored, "M-13", "How do I change my PIN?")
    stale = _ask(stored, "M-13", "I lost my phone, please block the app")
    assert stale.status == 200
    assert (stale.body["stale"], stale.body["stale_reason"]) == (True, "input")
    assert stale.body["output"] == before["output"]
    after = _fresh(stored, "M-13", "I lost my phone, please block the app")
    assert after["output"] != before["output"]


def test_many_that_ask_at_once_make_one_computation(stored: RunningPlatform) -> None:
    before = _refreshes(stored)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _ask(stored, "M-14", "Where is my card?"), range(24)))
    assert {answer.status for answer in answers} <= {200, 202}
    _fresh(stored, "M-14", "Where is my card?")
    assert _refreshes(stored) - before == 1


def test_stored_results_are_read_by_key_and_in_batches(stored: RunningPlatform) -> None:
    _fresh(stored, "M-15/with a slash", "How do I change my PIN?")
    _fresh(stored, "M-16:colon", "Where is my card?")
    one = stored.call("/v1/features/ticket-triage/results/M-15/with%20a%20slash")
    assert (one.status, one.body["status"], one.body["output"]) == (200, "fresh", {"label": "change_pin"})
    assert stored.call("/v1/features/ticket-triage/results/M-16:colon").status == 200
    unknown = stored.call("/v1/features/ticket-triage/results/nobody")
    assert (unknown.status, unknown.body["code"]) == (404, "entity_unknown")
    keys = ["M-16:colon", "nobody", "M-15/with a slash"]
    many = stored.call("/v1/features/ticket-triage/results:batchGet", {"entity_keys": keys})
    assert [result["entity_key"] for result in many.body["results"]] == keys
    assert [result["status"] for result in many.body["results"]] == ["fresh", "unknown", "fresh"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [([], "at least 1"), ([f"M-{n}" for n in range(101)], "at most 100"), (["M", "M"], "twice"), ([""], "1")],
)
def test_a_batch_of_the_wrong_size_is_refused_by_name(
    stored: RunningPlatform, keys: list[str], told: str
) -> None:
    answer = stored.call("/v1/features/ticket-triage/results:batchGet", {"entity_keys": keys})
    assert answer.status == 422
    assert "entity_keys" in answer.body["detail"]
    assert told in answer.body["detail"]


def test_a_correction_has_the_entity_computed_anew(stored: RunningPlatform) -> None:
    made = _fresh(stored, "M-17", "How do I change my PIN?")
    before = stored.call("/v1/features/ticket-triage/results/M-17").body["computed_at"]
    event = {"inference_id": made["inference_id"], "kind": "correction", "value": {"label": "pin_blocked"}}
    assert stored.call("/v1/feedback", event).status == 201
    until = time.monotonic() + 30
    while stored.call("/v1/features/ticket-triage/results/M-17").body["computed_at"] == before:
        assert time.monotonic() < until, stored.shown()
        time.sleep(0.1)


def test_async_is_refused_where_nothing_is_stored(stored: RunningPlatform) -> None:
    answer = stored.call(
        "/v1/features/ticket-summary/infer", {"input": {"text": "x"}, "subject": {"id": "u"}, "mode": "async"}
    )
    assert (answer.status, answer.body["errors"][0]["field"]) == (422, "mode")


def test_without_the_worker_a_placeholder_is_all_there_is_and_the_wish_is_kept(
    stored: RunningPlatform,
) -> None:
    with stored.without("worker"):
        answer = _ask(stored, "M-18", "How do I change my PIN?")
        assert answer.status == 202
        time.sleep(1)
        assert stored.call(answer.headers["location"]).status == 202
    assert _fresh(stored, "M-18", "How do I change my PIN?")["output"] == {"label": "change_pin"}


def test_another_key_cannot_read_or_follow_it(stored: RunningPlatform) -> None:
    made = _ask(stored, "M-19", "Where is my card?").body
    for path in ("", "/events"):
        answer = stored.call(f"/v1/inferences/{made['inference_id']}{path}", key="trv_unknown")
        assert answer.status == 401
