"""Answers that the worker is waited for: the placeholder, the read-back, the events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import REGISTRY

from support.edge import free_port
from trivium.store.inferences import InferenceRepository
from trivium.store.keys import KeyRepository

HELLO = "hello there"
MADE = {"label": "HELLO THERE"}


def _events(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream; comments are left out."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def _stored(worker: Any, inference_id: str, status: str = "generating") -> dict[str, Any]:
    """An inference's row, as soon as it is stored with a status."""
    async with asyncio.timeout(5):
        while not (row := await worker.row(inference_id)) or row["status"] != status:
            await asyncio.sleep(0.02)
    found: dict[str, Any] = row
    return found


async def test_a_missing_result_is_answered_202_and_read_back_when_the_worker_has_made_it(
    gateway: Any, worker: Any
) -> None:
    labels = {"feature": "intents", "variant": "static", "pattern": "static", "outcome": "generating"}
    before = REGISTRY.get_sample_value("trivium_inferences_total", labels) or 0
    answer = await gateway.infer("M-1", HELLO)
    made = answer.json()
    path = f"/v1/inferences/{made['inference_id']}"
    assert answer.status_code == 202
    assert made == {
        "inference_id": made["inference_id"],
        "status": "generating",
        "placeholder": {"label": "nothing"},
        "fallback_reason": "result_missing",
        "retry_after_ms": 500,
    }
    assert (answer.headers["location"], answer.headers["retry-after"]) == (path, "1")
    assert REGISTRY.get_sample_value("trivium_inferences_total", labels) == before + 1

    waiting = await gateway.client.get(path)
    assert (waiting.status_code, waiting.json()) == (202, made)
    assert waiting.headers["location"] == path
    await _stored(worker, made["inference_id"])
    assert await worker.wishes() == {"M-1": ("missing", {"text": HELLO})}
    assert await worker.work() == 1

    done = await gateway.client.get(path)
    body = done.json()
    assert (done.status_code, body["status"], body["output"]) == (200, "done", MADE)
    assert "location" not in done.headers
    assert (body["degraded"], body["fallback_reason"], body["stale"]) == (False, None, False)
    assert (body["confidence"], body["arm"]) == (0.9, "treatment")
    assert 0 <= body["age_s"] < 60
    by = body["served_by"]
    assert (by["step"], by["pattern"], by["variant"], by["model"]) == (
        *("stored-v1", "precomputed", "stored-v1", "capitals"),
    )
    row = await _stored(worker, made["inference_id"], "done")
    assert (row["output"], row["degraded"], row["version"]) == (MADE, False, by["version"])
    assert (await gateway.infer("M-1", HELLO)).status_code == 200


async def test_a_wish_brings_only_what_the_schema_names_of_the_input(gateway: Any, worker: Any) -> None:
    answer = await gateway.infer("M-1", input={"text": HELLO, "mood": "good"})
    assert answer.status_code == 202
    assert await worker.wishes() == {"M-1": ("missing", {"text": HELLO})}
    await worker.work()
    again = await gateway.infer("M-1", input={"text": HELLO, "mood": "bad"})
    assert (again.status_code, again.json()["stale"]) == (200, False)


async def test_an_answer_stays_what_it_was_first_read_as_whoever_reads_it(
    start_gateway: Any, worker: Any
) -> None:
    first, second = await start_gateway(1), await start_gateway(2)
    made = (await first.infer("M-1", HELLO)).json()["inference_id"]
    await _stored(worker, made)
    await worker.wishes()
    await worker.work()
    read = await second.read(made)
    assert read.json()["output"] == MADE
    await worker.change("M-1", output={"label": "newer"}, age_s=50)
    for gateway in (first, second, await start_gateway(3)):
        assert (await gateway.read(made)).json() == read.json()


async def test_an_answer_that_still_waits_in_the_journal_is_settled_there(
    start_gateway: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.recorder.FLUSH_S", 3600)
    gateway = await start_gateway(1)
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    await worker.wishes()
    await worker.work()
    read = (await gateway.read(made)).json()
    assert read["output"] == MADE
    assert await worker.row(made) is None
    await worker.change("M-1", output={"label": "newer"}, age_s=50)
    assert (await gateway.read(made)).json() == read
    await gateway.state.recorder.flush()
    row = await worker.row(made)
    assert (row["status"], row["output"], row["age_s"]) == ("done", MADE, read["age_s"])
    assert (await (await start_gateway(2)).read(made)).json() == read


async def test_readers_at_the_same_time_read_the_same(gateway: Any, worker: Any) -> None:
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    await _stored(worker, made)
    await worker.wishes()
    await worker.work()
    answers = await asyncio.gather(*(gateway.read(made) for _ in range(20)))
    bodies = [answer.json() for answer in answers]
    assert bodies[0]["output"] == MADE
    assert bodies == [bodies[0]] * 20
    assert (await gateway.read(made)).json() == bodies[0]


async def test_what_the_worker_cannot_make_ends_as_the_placeholder_and_stays_it(
    gateway: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    await _stored(worker, made)
    assert (await gateway.read(made)).status_code == 202
    monkeypatch.setattr("gateway.serving.GENERATING_S", 0.0)
    answer = await gateway.read(made)
    body = answer.json()
    assert (answer.status_code, body["status"], body["output"]) == (200, "done", {"label": "nothing"})
    assert (body["degraded"], body["fallback_reason"]) == (True, "result_missing")
    assert body["served_by"]["pattern"] == "static"
    await worker.wishes()
    await worker.work()
    assert (await gateway.read(made)).json() == body
    assert (await _stored(worker, made, "done"))["output"] == {"label": "nothing"}


async def test_a_result_that_is_too_old_is_no_answer_until_it_is_computed_anew(
    gateway: Any, worker: Any
) -> None:
    await worker.compute("M-1")
    await worker.change("M-1", age_s=4000)
    answer = await gateway.infer("M-1", "text of M-1")
    assert (answer.status_code, answer.json()["fallback_reason"]) == (202, "result_stale")
    made = answer.json()["inference_id"]
    assert (await gateway.read(made)).status_code == 202
    assert await worker.wishes() == {"M-1": ("age", {"text": "text of M-1"})}
    await worker.work()
    body = (await gateway.read(made)).json()
    assert (body["output"], body["degraded"], body["stale"]) == ({"label": "TEXT OF M-1"}, False, False)


async def test_a_result_that_began_before_it_was_asked_for_is_an_answer_too(
    gateway: Any, worker: Any
) -> None:
    """A chunk of a long run was claimed, which is when its results count as computed, long before."""
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    await worker.wishes()
    await worker.work()
    await worker.change("M-1", age_s=40)
    body = (await gateway.read(made)).json()
    assert (body["output"], body["stale"]) == (MADE, False)
    assert body["age_s"] >= 40


async def test_a_result_of_another_input_is_an_answer_that_says_so_and_is_wished_anew(
    gateway: Any, worker: Any
) -> None:
    first = (await gateway.infer("M-1", "one")).json()["inference_id"]
    await worker.wishes()
    second = (await gateway.infer("M-1", "two")).json()["inference_id"]
    await asyncio.sleep(0.3)
    await worker.work()
    body = (await gateway.read(first)).json()
    assert (body["output"], body["stale"]) == ({"label": "ONE"}, False)
    body = (await gateway.read(second)).json()
    assert (body["output"], body["stale"], body["stale_reason"]) == ({"label": "ONE"}, True, "input")
    assert await worker.wishes() == {"M-1": ("input", {"text": "two"})}
    await worker.work()
    assert (await gateway.infer("M-1", "two")).json()["output"] == {"label": "TWO"}


async def test_a_changed_input_is_served_stale_and_soon_fresh(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1")
    stale = (await gateway.infer("M-1", HELLO)).json()
    assert (stale["stale"], stale["stale_reason"], stale["degraded"]) == (True, "input", False)
    assert stale["output"] == {"label": "TEXT OF M-1"}
    assert await worker.wishes() == {"M-1": ("input", {"text": HELLO})}
    await worker.work()
    fresh = (await gateway.infer("M-1", HELLO)).json()
    assert (fresh["stale"], fresh["output"]) == (False, MADE)


async def test_async_asks_no_other_step_and_both_wish_what_is_missing(gateway: Any, worker: Any) -> None:
    feature = "with-another-step"
    await worker.compute("M-1", variant="stored-v0", feature=feature)
    await worker.change("M-1", age_s=100)  # what the other step has is stale itself
    answer = await gateway.infer("M-1", "text of M-1", feature=feature)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["served_by"]["step"], body["degraded"]) == ("stored-v0", True)
    assert (body["fallback_reason"], body["stale_reason"]) == ("result_missing", "age")
    assert await worker.wishes() == {"M-1": ("missing", {"text": "text of M-1"})}

    at_once = await gateway.infer("M-1", "text of M-1", feature=feature, mode="async")
    assert at_once.status_code == 202
    assert at_once.json()["placeholder"] == {"label": "nothing"}
    await worker.work()
    there = await gateway.infer("M-1", "text of M-1", feature=feature, mode="async")
    assert (there.status_code, there.json()["degraded"]) == (200, False)


async def test_async_is_refused_where_the_served_variant_is_not_stored(gateway: Any) -> None:
    answer = await gateway.infer("M-1", HELLO, feature="asked-at-once", mode="async")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "mode")


async def test_an_entity_that_nobody_knows_is_degraded_and_not_generating(gateway: Any, worker: Any) -> None:
    for mode in ("sync", "async"):
        answer = await gateway.infer("M-none", mode=mode)
        body = answer.json()
        assert (answer.status_code, body["status"], body["degraded"]) == (200, "done", True)
        assert (body["fallback_reason"], body["output"]) == ("entity_unknown", {"label": "nothing"})
    assert await worker.wishes(0) == {}


async def test_the_control_arm_waits_for_nothing_and_wishes_nothing(gateway: Any, worker: Any) -> None:
    for mode in ("sync", "async"):
        answer = await gateway.infer("M-1", HELLO, subject={"id": "outsider"}, mode=mode)
        body = answer.json()
        assert (answer.status_code, body["arm"], body["degraded"]) == (200, "control", False)
    assert await worker.wishes(0) == {}


async def test_a_result_that_does_not_fit_the_schema_any_more_is_not_served_and_computed_anew(
    gateway: Any, worker: Any
) -> None:
    await worker.compute("M-1")
    await worker.change("M-1", output={"queue": "of an older schema"}, variant_version="old")
    answer = await gateway.infer("M-1", "text of M-1")
    assert (answer.status_code, answer.json()["fallback_reason"]) == (200, "schema_violation")
    assert await worker.wishes() == {"M-1": ("variant", {"text": "text of M-1"})}
    await worker.work()
    assert (await gateway.infer("M-1", "text of M-1")).json()["output"] == {"label": "TEXT OF M-1"}


async def test_after_the_feature_has_moved_to_another_pattern_the_placeholder_is_the_answer(
    start_gateway: Any, worker: Any, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await start_gateway(1)
    made = (await before.infer("M-1", HELLO)).json()["inference_id"]
    await _stored(worker, made)
    manifest = (features / "asked-at-once/feature.yaml").read_text().replace("asked-at-once", "intents")
    moved = tmp_path / "moved"
    (moved / "intents").mkdir(parents=True)
    (moved / "intents/feature.yaml").write_text(manifest)
    (moved / "intents/golden.jsonl").write_text("{}\n")
    after = await start_gateway(2, features_dir=moved)
    assert (await after.read(made)).status_code == 202
    monkeypatch.setattr("gateway.serving.GENERATING_S", 0.0)
    answer = await after.read(made)
    assert (answer.status_code, answer.json()["output"]) == (200, {"label": "nothing"})


async def test_events_begin_with_generating_and_end_with_the_answer(gateway: Any, worker: Any) -> None:
    made = (await gateway.infer("M-1", HELLO)).json()
    path = f"/v1/inferences/{made['inference_id']}"
    following = asyncio.create_task(gateway.client.get(f"{path}/events"))
    await worker.wishes()
    await asyncio.sleep(0.3)
    assert not following.done()
    await worker.work()
    stream = await asyncio.wait_for(following, 5)
    assert stream.status_code == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    (first, placeholder), (last, answer) = _events(stream.text)
    assert (first, placeholder) == ("generating", made)
    assert (last, answer["output"]) == ("done", MADE)
    assert (await gateway.client.get(path)).json() == answer
    assert _events((await gateway.client.get(f"{path}/events")).text) == [("done", answer)]


async def test_events_that_wait_too_long_end_with_a_timeout_and_beat_until_then(
    gateway: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.routes.inferences.EVENTS_S", 0.8)
    monkeypatch.setattr("gateway.routes.inferences.HEARTBEAT_S", 0.3)
    made = (await gateway.infer("M-1", HELLO)).json()
    stream = await gateway.client.get(f"/v1/inferences/{made['inference_id']}/events")
    assert [name for name, _ in _events(stream.text)] == ["generating", "timeout"]
    assert _events(stream.text)[-1][1] == made
    assert ": still generating\n\n" in stream.text


async def test_another_key_neither_reads_nor_follows_and_an_admin_does(gateway: Any, worker: Any) -> None:
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    await worker.wishes()
    await worker.work()
    keys = KeyRepository(worker.database)
    for name, scopes, status in (
        ("other", ["infer"], 404),
        ("none", ["feedback"], 403),
        ("chief", ["admin"], 200),
    ):
        _, secret = await keys.create(name, scopes)
        headers = {"Authorization": f"Bearer {secret}"}
        for path in (f"/v1/inferences/{made}", f"/v1/inferences/{made}/events"):
            assert (await gateway.client.get(path, headers=headers)).status_code == status


@pytest.fixture
async def served(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """A gateway with room for one stream, behind a real server; and a client that reads streams."""
    monkeypatch.setattr("gateway.state.MAX_STREAMS", 1)
    gateway = await start_gateway(1)
    port = free_port()
    config = uvicorn.Config(gateway.app, port=port, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    headers = gateway.client.headers
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        yield gateway, client
    server.should_exit = True
    await task


async def test_a_stream_too_many_is_refused_until_a_caller_leaves(
    served: tuple[Any, httpx.AsyncClient],
) -> None:
    gateway, client = served
    made = (await gateway.infer("M-1", HELLO)).json()["inference_id"]
    path = f"/v1/inferences/{made}/events"
    async with client.stream("GET", path) as stream:
        assert stream.status_code == 200
        parts = stream.aiter_text()  # kept: what is forgotten is closed
        first = await anext(parts)  # at once, not when the stream ends
        assert first.startswith("event: generating\n")
        refused = await client.get(path)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    left = time.monotonic()
    while gateway.state.streams.locked():
        assert time.monotonic() < left + 2
        await asyncio.sleep(0.02)
    async with client.stream("GET", path) as stream:
        assert stream.status_code == 200


async def test_a_journal_of_before_there_was_a_status_is_carried_over(gateway: Any, worker: Any) -> None:
    degraded = await gateway.infer("M-none")
    row = await _stored(worker, degraded.json()["inference_id"], "done")
    old = {name: value for name, value in row.items() if name != "status"}
    await InferenceRepository(worker.database).add([{**old, "id": "of-before"}], [])
    assert (await _stored(worker, "of-before", "done"))["output"] == row["output"]
