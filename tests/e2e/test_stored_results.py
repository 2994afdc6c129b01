"""A feature whose answers the worker computes ahead: missing, generated, fresh, stale, corrected."""

import gzip
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.platform import RunningPlatform, clean_environment, free_offset

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


RUNS = "/v1/features/ticket-triage/precompute"
LINES = {"Content-Type": "application/x-ndjson"}


def _body(count: int, name: str) -> bytes:
    lines = (json.dumps({"id": f"{name}-{n}", "text": f"Where is my card number {n}?"}) for n in range(count))
    return "\n".join(lines).encode()


def _ended(platform: RunningPlatform, run_id: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        run: dict[str, Any] = platform.call(f"/v1/precompute/{run_id}").body
        if run["state"] not in ("queued", "running"):
            return run
        time.sleep(0.1)
    raise AssertionError(run)


def test_a_packed_body_is_a_run_and_its_wrong_lines_are_told(stored: RunningPlatform) -> None:
    body = b'{"id": 5}\n' + _body(300, "P") + b"\nnope\n"
    headers = {**LINES, "Content-Encoding": "gzip", "Idempotency-Key": "packed"}
    started = stored.call(RUNS, raw=gzip.compress(body), headers=headers)
    assert started.status == 202
    assert started.headers["location"] == f"/v1/precompute/{started.body['run_id']}"
    assert (started.body["total"], started.body["bad_lines"]) == (300, 2)
    assert [bad["line"] for bad in started.body["line_errors"]] == [1, 302]
    run = _ended(stored, started.body["run_id"])
    assert run["state"] == "done_with_errors"
    assert run["computed"] + run["abstained"] == 300
    again = stored.call(RUNS, raw=gzip.compress(body), headers=headers)
    assert (again.status, again.body["run_id"]) == (200, run["run_id"])
    unchanged = stored.call(RUNS, raw=_body(300, "P"), headers=LINES).body
    assert _ended(stored, unchanged["run_id"])["unchanged"] == run["computed"]
    listed = stored.call(RUNS).body
    assert [one["run_id"] for one in listed[:2]] == [unchanged["run_id"], run["run_id"]]


def test_strict_takes_all_lines_or_none(stored: RunningPlatform) -> None:
    before = stored.call(RUNS).body
    refused = stored.call(f"{RUNS}?strict=true", raw=_body(3, "S") + b"\nnope", headers=LINES)
    assert (refused.status, refused.body["code"]) == (422, "invalid_request")
    assert "line 4" in refused.body["detail"]
    assert stored.call(RUNS).body == before
    assert stored.call("/v1/features/ticket-triage/results/S-0").body["code"] == "entity_unknown"
    taken = stored.call(f"{RUNS}?strict=true", raw=_body(3, "S"), headers=LINES)
    assert _ended(stored, taken.body["run_id"])["total"] == 3


def test_while_one_runs_another_is_refused_or_waits(stored: RunningPlatform) -> None:
    with stored.without("worker"):
        first = stored.call(RUNS, raw=_body(5, "O"), headers=LINES).body["run_id"]
        refused = stored.call(RUNS, raw=_body(5, "O"), headers=LINES)
        assert (refused.status, refused.body["code"]) == (409, "conflict")
        assert first in refused.body["detail"]
        queued = stored.call(f"{RUNS}?overlap=queue", raw=_body(5, "O"), headers=LINES).body
        assert queued["state"] == "queued"
        cancelled = stored.call(f"/v1/precompute/{first}/cancel", {})
        assert cancelled.body["state"] == "cancelled"
    assert _ended(stored, queued["run_id"])["state"] == "done"


def test_a_body_that_is_cut_off_ends_its_run_and_can_be_sent_again(stored: RunningPlatform) -> None:
    packed = gzip.compress(_body(2_000, "C"))
    headers = {**LINES, "Content-Encoding": "gzip", "Idempotency-Key": "cut"}
    cut = stored.call(RUNS, raw=packed[: len(packed) // 2], headers=headers)
    assert (cut.status, cut.body["code"]) == (400, "malformed_body")
    failed = stored.call(RUNS).body[0]
    assert (failed["state"], "cut short" in failed["error"]) == ("failed", True)
    whole = stored.call(RUNS, raw=packed, headers=headers)
    assert whole.status == 202
    assert _ended(stored, whole.body["run_id"])["total"] == 2_000


def test_a_caller_that_hangs_up_in_the_middle_ends_its_run(stored: RunningPlatform) -> None:
    with socket.create_connection(("127.0.0.1", 8080 + stored.offset)) as caller:
        head = f"POST {RUNS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stored.key}\r\n"
        head += "Content-Type: application/x-ndjson\r\nContent-Length: 9999999\r\n\r\n"
        caller.sendall(head.encode() + _body(3_000, "H"))
        until = time.monotonic() + 20
        while stored.call(RUNS).body[0]["phase"] != "import":
            assert time.monotonic() < until
            time.sleep(0.05)
    while (run := stored.call(RUNS).body[0])["state"] != "failed":
        assert time.monotonic() < until, run
        time.sleep(0.05)
    assert "cut short" in run["error"]


@pytest.mark.parametrize(
    ("raw", "kind", "status", "told"),
    [
        (b"x", "text/csv", 415, "text/csv"),
        (b"{", "application/json", 400, "not JSON"),
        (b'{"source": "moon"}', "application/json", 422, "source"),
        (b'{"url": "s3://x/y"}', "application/json", 422, "TRIVIUM_SOURCE_URLS"),
        (b'{"source": "source"}', "application/json", 422, "source"),
        (b'{"variant": "none"}', "application/json", 404, "none"),
        (b'{"speed": 5}', "application/json", 422, "speed"),
    ],
)
def test_a_run_that_cannot_be_started_says_why(
    stored: RunningPlatform, raw: bytes, kind: str, status: int, told: str
) -> None:
    answer = stored.call(RUNS, raw=raw, headers={"Content-Type": kind})
    assert answer.status == status, answer
    assert told in answer.body["detail"]


def test_runs_need_their_scope_and_unknown_ones_are_told(stored: RunningPlatform) -> None:
    assert stored.call(RUNS, raw=b"{}", key="trv_unknown").status == 401
    assert stored.call(RUNS, raw=b"{}", key=None).status == 401
    for path in ("/v1/precompute/none", "/v1/precompute/none/dead"):
        assert stored.call(path).status == 404
    assert stored.call("/v1/precompute/none/cancel", {}).status == 404
    assert stored.call("/v1/precompute/none/replay", {}).status == 404
    assert stored.call("/v1/features/nothing/precompute", {}).status == 404
    made = subprocess.run(
        [sys.executable, "-m", "trivium.cli.main", "keys", "create", "reader", "--scopes", "infer"],
        env=clean_environment() | {"TRIVIUM_STATE_DIR": str(stored.state_dir)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    secret = next(word for word in made.split() if word.startswith("trv_"))
    refused = stored.call(RUNS, {}, key=secret)
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    assert "precompute" in refused.body["detail"]
