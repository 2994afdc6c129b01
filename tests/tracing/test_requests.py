"""Traces of a real platform: what one request leaves behind, over every service that it came through."""

import json
import socket
from typing import Any

import grpc
import pytest

from edge_model.doors import open_inference_pb2 as pb
from support.platform import Answer, RunningPlatform
from support.traces import Collector, Span

pytestmark = pytest.mark.platform
SECRET = "zanzibar-4711"
"""Stands in everything that is asked here."""
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED = {"input": {"text": f"My card has not arrived, order {SECRET}"}, "subject": {"id": f"s-{SECRET}"}}


def _chat(traced: RunningPlatform, model: str, **more: Any) -> Answer:
    said = [{"role": "user", "content": f"Say hello to {SECRET}."}]
    body = {
        "model": model,
        "messages": said,
        "max_tokens": 6,
        "temperature": 0,
        "user": f"s-{SECRET}",
        **more,
    }
    return traced.call("/v1/chat/completions", body)


def _of(collector: Collector, inference_id: str) -> tuple[Span, list[Span]]:
    """The span of an inference, and those beneath it."""
    collector.until(
        lambda: any(s.attributes.get("trivium.inference_id") == inference_id for s in collector.spans)
    )
    (whole,) = [
        s
        for s in collector.spans
        if s.attributes.get("trivium.inference_id") == inference_id and s.name.startswith("inference ")
    ]
    beneath = [s for s in collector.spans if s.parent_id == whole.id]
    return whole, sorted(beneath, key=lambda s: s.started)


def test_one_trace_has_the_caller_the_gateway_and_the_edge_model(
    traced: RunningPlatform, collector: Collector
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    answer = traced.call("/v1/features/ticket-triage/infer?q=1", ASKED, headers=headers)
    assert answer.status == 200
    request, inference, attempt, edge = collector.within(TRACE, 4)
    assert [request.parent_id, inference.parent_id, attempt.parent_id, edge.parent_id] == [
        *(CALLER, request.id, inference.id),
        attempt.id,
    ]
    assert [s.service for s in (request, inference, attempt, edge)] == [
        *["trivium-gateway"] * 3,
        "trivium-edge",
    ]
    assert [s.kind for s in (request, inference, attempt, edge)] == ["server", "internal", "client", "server"]
    assert request.name == "POST /v1/features/{feature}/infer"
    assert request.attributes | {"server.port": 0} == {
        "http.request.method": "POST",
        "http.route": "/v1/features/{feature}/infer",
        "http.response.status_code": 200,
        "url.path": "/v1/features/ticket-triage/infer",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": 0,
        "trivium.request_id": answer.headers["x-request-id"],
    }
    served = answer.body["served_by"]
    told = {
        name: inference.attributes[f"trivium.{name}"] for name in ("step", "pattern", "variant", "version")
    }
    assert told == {name: served[name] for name in told}
    assert inference.attributes["trivium.arm"] == "treatment"
    assert inference.attributes["trivium.degraded"] is False
    assert inference.attributes["trivium.inference_id"] == answer.body["inference_id"]
    assert attempt.attributes["trivium.outcome"] == "ok"
    assert attempt.attributes["http.response.status_code"] == 200
    assert attempt.attributes["server.port"] == 8081 + traced.offset
    assert edge.attributes["http.route"] == "/v2/models/{model}/versions/{version}/infer"
    assert edge.attributes["trivium.edge.run_ms"] > 0 <= edge.attributes["trivium.edge.wait_ms"]
    assert not any(s.failed for s in (request, inference, attempt, edge))


def test_a_call_of_a_model_is_told_as_the_conventions_have_it(
    traced: RunningPlatform, collector: Collector
) -> None:
    answer = _chat(traced, "route/chat")
    usage = answer.body["usage"]
    whole, (call,) = _of(collector, answer.headers["x-trivium-inference-id"])
    assert (call.name, call.kind, call.failed) == ("chat smollm2", "client", False)
    genai = {k: v for k, v in call.attributes.items() if k.startswith(("gen_ai.", "server."))}
    assert genai.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert genai == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "local",
        "gen_ai.request.model": "smollm2",
        "gen_ai.request.max_tokens": 6,
        "gen_ai.request.temperature": 0,
        "gen_ai.response.model": "smollm2",
        "gen_ai.response.finish_reasons": [answer.body["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "server.address": "127.0.0.1",
        "server.port": 8083 + traced.offset,
    }
    assert whole.name == "inference route/chat"
    assert whole.attributes["trivium.step"] == "route/chat"


def test_the_spans_of_a_stream_end_with_it(traced: RunningPlatform, collector: Collector) -> None:
    answer = _chat(traced, "route/chat", stream=True, stream_options={"include_usage": True})
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith("data: {")]
    (usage,) = [event["usage"] for event in events if event.get("usage")]
    whole, (call,) = _of(collector, answer.headers["x-trivium-inference-id"])
    (request,) = [s for s in collector.within(whole.trace_id, 3) if s.id == whole.parent_id]
    assert request.started < whole.started < call.started < call.ended < whole.ended < request.ended
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert call.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert call.attributes["gen_ai.response.model"] == "smollm2"
    first_s = call.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0 < first_s * 1e9 < call.ended - call.started


@pytest.mark.parametrize("stream", [False, True])
def test_every_attempt_has_a_span_that_says_how_it_ended(
    traced: RunningPlatform, collector: Collector, stream: bool
) -> None:
    answer = _chat(traced, "route/second", stream=stream)
    assert answer.status == 200
    whole, (gone, served) = _of(collector, answer.headers["x-trivium-inference-id"])
    assert (gone.name, gone.failed) == ("chat gone", True)
    assert gone.attributes["error.type"] == gone.attributes["trivium.outcome"] == "connection"
    assert (served.name, served.failed, served.attributes["trivium.outcome"]) == ("chat smollm2", False, "ok")
    assert whole.attributes["trivium.degraded"] is True
    assert whole.attributes["trivium.fallback_reason"] == "connection"
    assert not whole.failed


def test_a_caller_that_leaves_is_noted_at_every_level(traced: RunningPlatform, collector: Collector) -> None:
    trace_id = "1" * 32
    said = [{"role": "user", "content": "Tell a very long story."}]
    body = json.dumps({"model": "route/chat", "messages": said, "max_tokens": 900, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {traced.key}\r\n"
        f"traceparent: 00-{trace_id}-{CALLER}-01\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", 8080 + traced.offset), timeout=30) as caller:
        caller.sendall(head.encode() + body)
        assert b"200" in caller.recv(65536)
    request, whole, call = collector.within(trace_id, 3)
    assert [s.attributes["error.type"] for s in (request, whole, call)] == ["left"] * 3
    assert all(s.failed for s in (request, whole, call))
    assert whole.attributes["trivium.status"] == "left"


def test_a_stored_result_that_is_read_is_a_call_of_the_database(
    traced: RunningPlatform, collector: Collector
) -> None:
    path = f"/v1/features/stored/results/{SECRET}"
    assert traced.call(path).status == 404
    request = collector.find(name="GET /v1/features/{feature}/results/{entity_key:path}")
    read = collector.find(parent_id=request.id)
    assert request.attributes["url.path"] == "/v1/features/stored/results/{entity_key}"
    assert (read.name, read.kind) == ("SELECT precomputed_result", "client")
    assert read.attributes["db.system.name"] == "sqlite"
    assert read.attributes["db.collection.name"] == "precomputed_result"


def test_a_shadow_has_a_trace_of_its_own_that_is_linked(
    traced: RunningPlatform, collector: Collector
) -> None:
    answer = traced.call("/v1/features/ticket-triage/infer", ASKED)
    whole, _ = _of(collector, answer.body["inference_id"])
    mine = answer.body["inference_id"]

    def shadows() -> list[Span]:
        named = [s for s in collector.spans if s.name == "shadow ticket-triage"]
        return [s for s in named if s.attributes["trivium.inference_id"] == mine]

    assert collector.until(lambda: bool(shadows()))
    (shadow,) = shadows()
    assert (shadow.parent_id, shadow.links) == ("", [whole.trace_id])
    _, attempt, edge = collector.within(shadow.trace_id, 3)
    assert (attempt.parent_id, edge.parent_id) == (shadow.id, attempt.id)


def test_a_call_by_grpc_goes_on_with_its_callers_trace(traced: RunningPlatform, collector: Collector) -> None:
    trace_id = "2" * 32
    asked = pb.ModelInferRequest(model_name="ticket-triage")
    tensor = asked.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(f"Where is my card? {SECRET}".encode())
    key = ("authorization", f"Bearer {traced.service_key}")
    with grpc.insecure_channel(f"127.0.0.1:{8082 + traced.offset}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        infer(asked, metadata=(key, ("traceparent", f"00-{trace_id}-{CALLER}-01")))
        with pytest.raises(grpc.RpcError):
            infer(asked, metadata=(("traceparent", f"00-{trace_id}-{CALLER}-01"),))
    served, refused = collector.within(trace_id, 2)
    assert (served.name, served.kind) == ("inference.GRPCInferenceService/ModelInfer", "server")
    assert served.parent_id == CALLER
    assert served.attributes["rpc.response.status_code"] == "OK"
    assert served.attributes["trivium.edge.run_ms"] > 0
    assert refused.attributes["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert not refused.failed


def test_lines_of_the_log_name_the_request_and_its_trace(
    traced: RunningPlatform, collector: Collector
) -> None:
    trace_id, request_id = "3" * 32, "req-of-the-log"
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01", "X-Request-Id": request_id}
    answer = traced.call("/v1/features/ticket-triage/infer", ASKED, headers=headers)
    log = traced.state_dir / "logs/gateway.log"
    own = f'"inference_id":"{answer.body["inference_id"]}"'
    assert collector.until(lambda: own in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("inference_id") == answer.body["inference_id"]]
    whole, _ = _of(collector, answer.body["inference_id"])
    assert (line["trace_id"], line["span_id"], line["request_id"]) == (trace_id, whole.id, request_id)
    started = [line for line in lines if line["event"] == "traces_on"]
    assert "trace_id" not in started[0]


def test_nothing_that_was_asked_or_answered_is_in_a_trace(
    traced: RunningPlatform, collector: Collector
) -> None:
    summary = traced.infer("ticket-summary", **ASKED)
    body = {**ASKED, "mode": "stream"}
    assert SECRET in traced.call("/v1/features/ticket-summary/infer", body).body
    assert traced.call("/v1/features/ticket-summary/infer", {"input": {SECRET: 1}}).status == 422
    assert traced.call("/health/ready", key=None).status == 200
    assert traced.call("/metrics", key=traced.service_key).status == 200
    _chat(traced, "feature/ticket-summary")
    _of(collector, summary["inference_id"])
    collector.find_all(3, name="inference ticket-summary")
    sent = b"".join(collector.raw)
    for hidden in (SECRET, summary["output"]["summary"], traced.key, traced.service_key, "very long story"):
        assert hidden.encode() not in sent, hidden
    paths = {s.attributes["url.path"] for s in collector.spans if "url.path" in s.attributes}
    assert not [path for path in paths if "health" in path or "metrics" in path]
