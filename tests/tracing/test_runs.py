"""Traces of runs: from whoever asked for one to the workers' chunks, and what these call."""

import json

import pytest

from batch_worker.jobs.chunks import LAST_CHILD
from support.platform import RunningPlatform
from support.traces import Collector

pytestmark = pytest.mark.platform
CALLER = "b7ad6b7169203331"


def test_a_run_goes_on_with_the_trace_of_the_request_that_started_it(
    traced: RunningPlatform, collector: Collector
) -> None:
    trace_id = "4" * 32
    lines = "\n".join(json.dumps({"id": f"R-{n}", "text": "Where is my card?"}) for n in range(3))
    headers = {"Content-Type": "application/x-ndjson", "traceparent": f"00-{trace_id}-{CALLER}-01"}
    path = "/v1/features/stored/precompute?variant=stored-v1"
    answer = traced.call(path, raw=lines.encode(), headers=headers)
    assert answer.status == 202
    request, chunk, call, edge = collector.within(trace_id, 4)
    assert [s.service for s in (request, chunk, call, edge)] == [
        *("trivium-gateway", "trivium-worker", "trivium-worker"),
        "trivium-edge",
    ]
    assert [request.parent_id, chunk.parent_id, call.parent_id, edge.parent_id] == [
        *(CALLER, request.id, chunk.id),
        call.id,
    ]
    assert (chunk.name, chunk.kind) == ("compute stored", "consumer")
    assert chunk.attributes["trivium.run_id"] == answer.body["run_id"]
    assert chunk.attributes["trivium.entities"] == call.attributes["trivium.rows"] == 3
    assert chunk.attributes["trivium.outcome"] == "done"


def test_later_chunks_of_a_long_run_have_traces_of_their_own_with_a_link(
    traced: RunningPlatform, collector: Collector
) -> None:
    trace_id = "5" * 32
    lines = "\n".join(json.dumps({"id": f"P-{n}", "text": "x"}) for n in range(LAST_CHILD + 3))
    headers = {"Content-Type": "application/x-ndjson", "traceparent": f"00-{trace_id}-{CALLER}-01"}
    path = "/v1/features/ticket-triage/precompute?variant=in-pieces"
    assert traced.call(path, raw=lines.encode(), headers=headers).status == 202
    chunks = collector.find_all(LAST_CHILD + 3, name="compute ticket-triage")
    mine = [chunk for chunk in chunks if chunk.trace_id == trace_id]
    others = [chunk for chunk in chunks if chunk.trace_id != trace_id]
    assert len(mine) == LAST_CHILD
    assert len({chunk.trace_id for chunk in others}) == len(others) == 3
    assert all(chunk.links == [trace_id] and chunk.parent_id == "" for chunk in others)


def test_what_a_request_wishes_for_is_computed_in_its_trace(
    traced: RunningPlatform, collector: Collector
) -> None:
    trace_id = "6" * 32
    body = {"entity_key": "W-1", "input": {"text": "How do I change my PIN?"}, "subject": {"id": "u-1"}}
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    assert traced.call("/v1/features/stored/infer", body, headers=headers).status == 202
    chunk = collector.find(trace_id=trace_id, service="trivium-worker", kind="consumer")
    inference = collector.find(trace_id=trace_id, name="inference stored")
    assert chunk.parent_id == inference.id
    assert inference.attributes["trivium.fallback_reason"] == "result_missing"
    assert collector.find(trace_id=trace_id, service="trivium-edge")


def test_a_run_by_the_clock_begins_a_trace(traced: RunningPlatform, collector: Collector) -> None:
    started = collector.find(name="schedule stored")
    assert (started.kind, started.service, started.parent_id) == ("producer", "trivium-worker", "")
    chunk = collector.find(trace_id=started.trace_id, name="import stored")
    computed = collector.find(trace_id=started.trace_id, name="compute stored")
    assert chunk.parent_id == computed.parent_id == started.id
    assert chunk.attributes["trivium.run_id"] == started.attributes["trivium.run_id"]
