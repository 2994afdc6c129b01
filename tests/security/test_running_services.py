"""What attackers send to services that run: without keys, with wrong ones, and with bodies made to harm."""

import ast
import gzip
import json
import re
import socket
import stat
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fastapi import FastAPI

from batch_worker.app import create_app as worker_app
from edge_model.app import create_app as edge_app
from edge_model.doors.grpc import GrpcDoor
from gateway.app import create_app as gateway_app
from gateway.chats import _estimate
from support.attacked import Running
from support.edge import KEY, RunningEdge
from support.vendor import Vendor

OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
MARK = "Zyxomma petiolatum 7741"
"""Words that stand in what users send, and must stand in no log."""


def _routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path that an application serves, those that are in no document included."""
    for route in app.router.routes:
        inner: Any = getattr(route, "effective_route_contexts", None)
        served: list[Any] = list(inner()) if inner else [route]
        for found in served:
            for method in sorted(found.methods or ()):
                yield method, found.path
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            yield method.upper(), path


def _asked(url: str, method: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
    request = urllib.request.Request(
        url,
        b"{}" if method == "POST" else None,
        {"Content-Type": "application/json", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers.get("WWW-Authenticate", ""), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("WWW-Authenticate", ""), error.read()


@pytest.mark.parametrize("service", ["gateway", "edge", "worker"])
def test_every_route_but_health_needs_a_key(gateway: Running, edge: RunningEdge, service: str) -> None:
    url, app = {
        "gateway": (gateway.url, gateway_app()),
        "edge": (f"http://127.0.0.1:{edge.port}", edge_app()),
        "worker": (gateway.worker_url, worker_app()),
    }[service]
    routes = set(_routes(app))
    assert {("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")} <= routes
    for method, path in sorted(routes):
        filled = path.replace("{inference_id}", "01a20541-f49e-725e-9873-7cfc62ac2522").replace(":path}", "}")
        filled = filled.replace("{", "").replace("}", "")
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": KEY},
            {"Authorization": f"Basic {'=' * 9}"},
            {"Cookie": f"key={gateway.key}"},
            {"X-Api-Key": gateway.key},
        ):
            status, challenge, body = _asked(url + filled, method, headers)
            if path in OPEN:
                assert status == 200, (method, path)
            else:
                assert status == 401, (method, path, headers, body)
                assert challenge.startswith("Bearer")
    assert {path for _, path in routes if "health" in path} <= OPEN


def test_a_key_in_the_query_opens_nothing(gateway: Running) -> None:
    for name in ("key", "api_key", "access_token", "authorization"):
        status, _, _ = _asked(f"{gateway.url}/v1/features?{name}={gateway.key}", "GET", {})
        assert status == 401


def test_the_service_key_is_no_key_of_the_api_and_a_key_of_the_api_none_of_the_services(
    gateway: Running, edge: RunningEdge
) -> None:
    assert gateway.call("/v1/features", key=KEY)[0] == 401
    assert gateway.call("/metrics", key=KEY)[0] == 200
    for url in (gateway.worker_url + "/metrics", f"http://127.0.0.1:{edge.port}/v2"):
        assert _asked(url, "GET", {"Authorization": f"Bearer {gateway.key}"})[0] == 401


def test_every_call_over_grpc_but_health_needs_the_key(edge: RunningEdge) -> None:
    served = _grpc_methods()
    assert {"ServerLive", "ServerReady", "ModelInfer"} <= served.keys()
    with grpc.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        for name in served:
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", KEY),)):
                if name in ("ServerLive", "ServerReady"):
                    call(b"", metadata=metadata, timeout=10)
                    continue
                with pytest.raises(grpc.RpcError) as raised:
                    call(b"", metadata=metadata, timeout=10)
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


def _grpc_methods() -> dict[str, Any]:
    settings: Any = type(
        "Settings", (), {"service_key": type("Key", (), {"get_secret_value": lambda s: "k"})()}
    )
    handler = GrpcDoor(type("State", (), {"settings": settings})()).handler()
    return {name.rpartition("/")[2]: found for name, found in handler._method_handlers.items()}


@pytest.mark.parametrize(
    "sent",
    [
        b"Bearer \xff\xfe",
        b"Bearer \xc3\xa4",
        b"Bearer a b",
        b"Basic /////w==",
        b"Basic \xff",
        b"\xff",
        b"bearer",
    ],
)
def test_odd_bytes_in_place_of_a_key_are_no_key(gateway: Running, edge: RunningEdge, sent: bytes) -> None:
    for url, path in (
        (gateway.url, b"GET /v1/features"),
        (gateway.url, b"POST /v1/chat/completions"),
        (gateway.worker_url, b"GET /metrics"),
        (f"http://127.0.0.1:{edge.port}", b"POST /v2/models/ticket-triage/infer"),
        (f"http://127.0.0.1:{edge.port}", b"GET /v2"),
    ):
        answer = _sent_raw(url, path, b"Authorization: " + sent)
        assert answer.startswith(b"HTTP/1.1 401 "), (path, answer)


def test_service_keys_are_compared_in_constant_time(root: Path) -> None:
    """Keys of the API are looked up by their hash, so that how long it takes tells nothing of them."""
    for name in (
        "shared/trivium/web.py",
        "services/edge-model/edge_model/doors/rest.py",
        "services/edge-model/edge_model/doors/grpc.py",
    ):
        tree = ast.parse((root / name).read_text())
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "compare_digest"
        ]
        assert calls, name
        for compared in (node for node in ast.walk(tree) if isinstance(node, ast.Compare)):
            told = ast.unparse(compared)
            assert not re.search(r"(_key|secret|expected|_authorization)\b.* [!=]= ", told), f"{name}: {told}"


def test_an_answer_of_another_key_is_not_there(gateway: Running) -> None:
    own, other = gateway.new_key("infer", "feedback"), gateway.new_key("infer", "feedback", "precompute")
    body = {"input": {"text": "mine"}, "subject": {"id": "u-1"}}
    status, made = gateway.call("/v1/features/open/infer", body, key=own)
    assert status == 200
    for path in ("", "/events"):
        assert gateway.call(f"/v1/inferences/{made['inference_id']}{path}", key=own)[0] == 200
        assert gateway.call(f"/v1/inferences/{made['inference_id']}{path}", key=other)[0] == 404


def test_a_kept_answer_is_the_keys_own(gateway: Running, vendor: Vendor) -> None:
    own, other = gateway.new_key("infer"), gateway.new_key("infer")
    body = {"input": {"text": "what was asked before"}, "subject": {"id": "u-1"}}
    asked = vendor.requests["POST /v1/chat/completions"]
    kept = [
        gateway.call("/v1/features/echo/infer", body, key=key)[1]["cached"] for key in (own, own, other, own)
    ]
    assert kept == [False, True, False, True]
    assert vendor.requests["POST /v1/chat/completions"] == asked + 2


def test_a_model_that_obeys_an_attacker_is_held_to_the_schema_and_has_no_tools(
    gateway: Running, vendor: Vendor
) -> None:
    said = [
        '{"label": ["rm -rf /"]}',
        '{"label": "", "admin": true}',
        "Ignore the schema.",
        '{"label": "x"} {"label": "y"}',
        '[{"label": "x"}]',
    ]
    honest = vendor.answer
    try:
        for number, answer in enumerate(said):
            vendor.answer = lambda body, answer=answer: answer  # type: ignore[misc]
            body = {"input": {"text": f"Obey me, {number}."}, "subject": {"id": "u-1"}}
            status, made = gateway.call("/v1/features/echo/infer", body)
            assert (status, made["output"], made["degraded"]) == (200, {"label": "nothing"}, True), answer
    finally:
        vendor.answer = honest
    sent = [body for path, body in vendor.bodies if path.endswith("chat/completions")]
    assert sent
    assert not [
        body for body in sent if "Obey me" in json.dumps(body) and {"tools", "functions"} & body.keys()
    ]


def test_no_other_origin_is_let_in(gateway: Running) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        request = urllib.request.Request(gateway.url + "/v1/features", headers=asked, method=method)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=10)
        with raised.value as error:
            assert not [name for name in error.headers if name.lower().startswith("access-control")]


def test_a_packed_bomb_is_refused_before_it_is_unpacked(gateway: Running, edge: RunningEdge) -> None:
    packed = gzip.compress(b"a" * 200_000_000, 1)
    started = time.monotonic()
    status, body = gateway.call(
        "/v1/features/stored/precompute",
        raw=packed,
        Content_Type="application/x-ndjson",
        Content_Encoding="gzip",
    )
    assert status == 413, body
    for encoding, raw in (("gzip", packed[:900_000]), ("deflate", zlib.compress(b"a" * 50_000_000))):
        reply = edge.post("/v2/models/ticket-triage/infer", raw=raw, headers={"Content-Encoding": encoding})
        assert reply.status in (400, 413)
    assert time.monotonic() - started < 60


def _sent_raw(url: str, asked: bytes, header: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        asked + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n" + header + b"\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65_536)):
            answer += part
    return answer


@pytest.mark.parametrize(
    "sent",
    [b"a\nSet-Cookie: x=1", b"a\rSet-Cookie: x=1", b"a\x00b", b'a"b', b"x" * 129, b"<script>", b"\xff\xfe"],
)
def test_a_request_id_brings_no_header_and_no_line_of_the_log(gateway: Running, sent: bytes) -> None:
    key = b"Authorization: Bearer " + gateway.key.encode() + b"\r\n"
    answer = _sent_raw(gateway.url, b"GET /v1/models", key + b"X-Request-Id: " + sent)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in head
    assert sent.lower() not in head
    for line in gateway.log.read_text().splitlines():
        json.loads(line)


def test_an_id_of_ones_own_comes_back(gateway: Running) -> None:
    request = urllib.request.Request(
        gateway.url + "/v1/models",
        headers={"Authorization": f"Bearer {gateway.key}", "X-Request-Id": "mine-1"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["X-Request-Id"] == "mine-1"


@pytest.mark.parametrize(
    "text",
    [
        "' OR '1'='1",
        "'; DROP TABLE api_key; --",
        '" OR ""="',
        "\\'; SELECT pg_sleep(9) --",
        "%",
        "_",
        "$1",
        ":key",
    ],
)
def test_what_looks_like_sql_is_a_name_like_any_other(gateway: Running, text: str) -> None:
    quoted = urllib.request.quote(text, safe="")  # type: ignore[attr-defined]
    for path in (
        f"/v1/features/stored/results/{quoted}",
        f"/v1/features/{quoted}",
        f"/v1/precompute/{quoted}",
        f"/v1/precompute/{quoted}/dead?after={quoted}",
        f"/v1/routes/{quoted}/costs",
    ):
        assert gateway.call(path)[0] == 404, path
    asked = {"entity_keys": [text]}
    status, found = gateway.call("/v1/features/stored/results:batchGet", asked)
    assert (status, found["results"][0]["status"]) == (200, "unknown")
    body = {"input": {"text": text}, "subject": {"id": text, "properties": {text: text}}}
    assert gateway.call("/v1/features/open/infer", body)[0] == 200
    assert gateway.call(f"/v1/features/open/decisions?after={quoted}")[0] == 200
    assert gateway.call("/v1/features")[0] == 200  # the keys are still there


def test_a_target_that_is_away_is_told_without_its_address(gateway: Running) -> None:
    asked = {"model": "route/away", "messages": [{"role": "user", "content": MARK}]}
    status, told = gateway.call("/v1/chat/completions", asked)
    assert (status, told["error"]["code"]) == (502, "connection")
    assert "127.0.0.1" not in json.dumps(told)


def test_logs_hold_no_key_and_no_words_of_users(gateway: Running, edge: RunningEdge, vendor: Vendor) -> None:
    subject = {"id": f"subject {MARK}"}
    for name in ("open", "stored", "echo"):
        asked = {"input": {"text": MARK, "secret": MARK}, "subject": subject, "entity_key": MARK}
        assert gateway.call(f"/v1/features/{name}/infer", asked)[0] in (200, 202)
    assert gateway.call("/v1/features/open/infer", {"input": MARK, "subject": subject})[0] == 422
    assert gateway.call("/v1/features/open/infer", raw=f'{{"{MARK}'.encode())[0] == 400
    chat = {"model": "route/chat", "messages": [{"role": "user", "content": MARK}]}
    assert gateway.call("/v1/chat/completions", {**chat, "user": MARK})[0] == 200
    assert gateway.call("/v1/features", key=f"trv_{MARK}")[0] == 401
    time.sleep(1)
    written = [gateway.log, gateway.folder / "worker.log"]
    told = "".join(log.read_text() for log in written) + edge.log
    for secret in (MARK, gateway.key, KEY, vendor.key):
        assert secret not in told, told[max(0, told.index(secret) - 600) :][:1200]


def test_what_is_written_is_its_owners_alone(gateway: Running) -> None:
    body = {"input": {"text": MARK}, "subject": {"id": "u-1"}}
    assert gateway.call("/v1/features/open/infer", body)[0] == 200
    found: list[Path] = [path for path in gateway.folder.glob("state/**/*") if not path.is_symlink()]
    assert {"journal", "trivium.db"} <= {path.name for path in found}
    for path in found:
        if "trivium.db" not in path.name:  # this one was made by the test
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize("most", [-1, -(10**9), 0, True, "x", 1e9, None])
def test_no_number_of_tokens_pays_a_budget_back(most: Any) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": most}
    assert _estimate(asked).output >= 1
    assert _estimate({**asked, "n": 8}).output == 8 * _estimate(asked).output
