"""Callers that are slow, too many, or that a server and a proxy may read differently; over raw sockets."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.edge import KEY, RunningEdge
from trivium.connections import MAX_PIPELINED, MAX_TARGET_BYTES

WAIT_S = 20
MAX_CONNECTIONS = 40
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
KEYED = f"Host: a\r\nAuthorization: Bearer {KEY}\r\n".encode()


@pytest.fixture(scope="module")
def strict(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEdge]:
    """A service with little patience."""
    running = RunningEdge(
        root / "models",
        tmp_path_factory.mktemp("strict") / "log",
        head_timeout_s=0.5,
        body_stall_s=1,
        write_stall_s=2,
        keep_alive_s=3,
        max_connections=MAX_CONNECTIONS,
        max_head_bytes=4096,
    )
    try:
        yield running.start()
    finally:
        running.stop()


def _connect(service: RunningEdge) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), WAIT_S)


def _until_closed(caller: socket.socket) -> bytes:
    """Everything that comes; fails if the server does not end the connection."""
    got = b""
    try:
        while part := caller.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


def _said(service: RunningEdge, request: bytes) -> bytes:
    with _connect(service) as caller:
        caller.sendall(request)
        return _until_closed(caller)


def _statuses(got: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", got)]


def _is_told(got: bytes, status: int, code: str) -> None:
    head, _, body = got.partition(b"\r\n\r\n")
    assert _statuses(got) == [status], got
    assert b"application/problem+json" in head
    assert b"connection: close" in head
    assert b"nosniff" in head
    assert json.loads(body)["code"] == code


def test_a_head_that_comes_drop_by_drop_is_cut(strict: RunningEdge) -> None:
    with _connect(strict) as caller:
        began = time.monotonic()
        caller.sendall(b"GET /health/live HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT012  # reset or broken pipe: either is an end
            while time.monotonic() < began + WAIT_S:
                caller.sendall(b"X-A: b\r\n")
                time.sleep(0.2)
        assert time.monotonic() - began < WAIT_S
    _is_told(_said(strict, b"GET /health/live HTTP/1.1\r\nHost: a\r\n"), 408, "slow_head")


def test_a_second_request_may_not_dawdle_either(strict: RunningEdge) -> None:
    assert _statuses(_said(strict, LIVE + b"GET /heal")) == [200, 408]


def test_a_body_that_does_not_come_on_is_cut(strict: RunningEdge) -> None:
    head = b"POST /v2/models/ticket-triage/infer HTTP/1.1\r\n" + KEYED
    _is_told(_said(strict, head + b"Content-Length: 1000\r\n\r\n{"), 408, "slow_body")
    _is_told(_said(strict, head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"), 408, "slow_body")


def test_one_that_never_asks_and_one_that_asks_no_more_are_let_go(strict: RunningEdge) -> None:
    assert _said(strict, b"") == b""
    assert _statuses(_said(strict, LIVE)) == [200]


def test_who_does_not_read_is_cut_off(strict: RunningEdge) -> None:
    asked = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\n" + KEYED + b"\r\n"
    with _connect(strict) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(20 * asked)
        until = time.monotonic() + WAIT_S
        while b'reason="slow_reader"} 1' not in strict.get("/metrics").raw:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert len(_until_closed(caller)) < 20_000_000
    assert "Traceback" not in strict.log


def test_who_asks_on_without_waiting_is_cut_off(strict: RunningEdge) -> None:
    asked = b"GET /v2 HTTP/1.1\r\n" + KEYED + b"\r\n"
    last = asked[:-2] + b"Connection: close\r\n\r\n"
    assert _statuses(_said(strict, (MAX_PIPELINED - 1) * asked + last)) == [200] * MAX_PIPELINED
    assert len(_statuses(_said(strict, 1000 * asked))) <= MAX_PIPELINED


def test_heads_have_a_size(strict: RunningEdge) -> None:
    large = b"X-A: " + b"a" * 5000 + b"\r\n"
    _is_told(_said(strict, LIVE[:-2] + large + b"\r\n"), 431, "head_too_large")
    _is_told(_said(strict, LIVE[:-2] + large), 431, "head_too_large")
    many = b"".join(b"X-%d: a\r\n" % number for number in range(600))
    _is_told(_said(strict, LIVE[:-2] + many + b"\r\n"), 431, "head_too_large")
    target = b"/" + b"a" * MAX_TARGET_BYTES
    _is_told(_said(strict, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "target_too_long")
    _is_told(_said(strict, b"GET " + target), 414, "target_too_long")


def test_a_large_body_behind_a_small_head_is_no_large_head(strict: RunningEdge) -> None:
    head = b"POST /v2/models/ticket-triage/infer HTTP/1.1\r\nConnection: close\r\n" + KEYED
    body = b'{"inputs": ' + b" " * 50_000 + b"[]}"
    got = _said(strict, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert _statuses(got) == [400], got


def test_when_too_many_are_connected_probes_are_answered_nevertheless(strict: RunningEdge) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(_connect(strict)).sendall(b"GET")
        asked = b"GET /v2 HTTP/1.1\r\nConnection: close\r\n" + KEYED + b"\r\n"
        _is_told(_said(strict, asked), 503, "too_many_connections")
        probe = LIVE[:-2] + b"Connection: close\r\n\r\n"
        assert _statuses(_said(strict, probe)) == [200]
        more = [stack.enter_context(_connect(strict)) for _ in range(MAX_CONNECTIONS + 5)]
        assert _until_closed(more[-1]) == b""
    until = time.monotonic() + WAIT_S
    while _statuses(_said(strict, asked)) != [200]:
        assert time.monotonic() < until, "it does not recover"
        time.sleep(0.2)


HIDDEN = b"GET /v2 HTTP/1.1\r\nConnection: close\r\n" + KEYED + b"\r\n"
POST = b"POST /v2/models/ticket-triage/infer HTTP/1.1\r\n" + KEYED
SMUGGLED = {
    "a length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "two lengths in one": POST + b"Content-Length: 0, 5\r\n\r\n" + HIDDEN,
    "a length with a sign": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length in words": POST + b"Content-Length: zero\r\n\r\n" + HIDDEN,
    "chunks that are not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks with a space": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks by another name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a size that overflows": POST
    + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "a size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a line feed alone": POST + b"X-A: b\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a line that is folded": POST + b"X-A: b\r\n Content-Length: 5\r\n\r\n" + HIDDEN,
    "a null in a value": POST + b"X-A: b\0\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a space before the name": POST + b" Content-Length: 0\r\n\r\n" + HIDDEN,
    "no version": b"GET /v2\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_second_request_hides_in_one_that_can_be_read_in_two_ways(strict: RunningEdge, name: str) -> None:
    statuses = _statuses(_said(strict, SMUGGLED[name]))
    assert 200 not in statuses, statuses
    assert len(statuses) <= 1


def test_what_is_not_hidden_is_answered(strict: RunningEdge) -> None:
    """The same second request behind one whose end is clear: else the test above could not fail."""
    assert _statuses(_said(strict, POST + b"Content-Length: 2\r\n\r\n{}" + HIDDEN)) == [400, 200]


def test_nobody_is_switched_to_another_protocol(strict: RunningEdge) -> None:
    for protocol in (b"websocket", b"h2c"):
        head = b"GET /v2 HTTP/1.1\r\nConnection: Upgrade, close\r\nUpgrade: " + protocol + b"\r\n" + KEYED
        head += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        assert 101 not in _statuses(_said(strict, head))
