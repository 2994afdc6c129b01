"""The edge model under more than it can do, and under callers that behave badly."""

import asyncio
import contextlib
import json
import signal
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from support.artefacts import STUCK_TOKEN, make_stuck, publish
from support.edge import KEY, RunningEdge, resident_bytes, running_edge, text_tensor

PATH = "/v2/models/ticket-triage/infer"
LENGTHS = [
    "Where is my card?",
    "I sent money to a friend abroad and it has not arrived yet. " * 2,
    "Why? " * 30,
]


def _request(body: Any, deadline_ms: int = 2_000) -> bytes:
    raw = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {KEY}\r\n"
        f"X-Deadline-Ms: {deadline_ms}\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def _call(port: int, request: bytes) -> tuple[int, dict[str, str], float]:
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, time.perf_counter() - started
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_overload_is_refused_fast_and_probes_are_answered(edge: RunningEdge) -> None:
    """Sixty callers at once, again and again: everything is answered, what cannot be is refused."""
    probe = b"GET /v2/health/ready HTTP/1.1\r\nHost: edge\r\n\r\n"
    body = {"inputs": [text_tensor(*LENGTHS * 2)], "outputs": [{"name": "label"}]}
    answers: list[tuple[int, dict[str, str], float]] = []
    probes: list[tuple[int, dict[str, str], float]] = []

    async def caller() -> None:
        for _ in range(8):
            answers.append(await _call(edge.port, _request(body)))

    callers = asyncio.gather(*(caller() for _ in range(60)))
    while not callers.done():
        probes.append(await _call(edge.port, probe))
        await asyncio.sleep(0.01)
    await callers
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 503}
    assert all(headers.get("retry-after") for status, headers, _ in answers if status == 503)
    assert {status for status, _, _ in probes} == {200}
    taken = {s: statistics.median(t for status, _, t in answers if status == s) for s in statuses}
    assert taken[503] < taken[200]
    assert statistics.median(t for *_, t in probes) < taken[200]


async def test_callers_that_leave_free_their_places(edge: RunningEdge) -> None:
    left = 'trivium_edge_requests_total{door="rest",status="left"}'
    before = edge.metric(left)
    request = _request({"inputs": [text_tensor(*LENGTHS * 2)]})
    for number in range(40):
        if number >= 10 and edge.metric(left) > before:
            break
        callers = []
        for _ in range(12):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(request)
            callers.append((reader, writer))
        await asyncio.sleep(0.01)
        for _, writer in callers[::2]:
            writer.transport.abort()
        for reader, writer in callers[1::2]:
            status = int((await asyncio.wait_for(reader.readline(), 20)).split()[1])
            assert status in (200, 503)
            writer.close()
    edge.until(lambda: edge.metric("trivium_queue_depth") == 0)
    assert edge.metric(left) > before
    assert edge.infer("a").status == 200


def test_a_body_that_never_ends_holds_nobody_else_up(edge: RunningEdge) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
            slow.sendall(_request({"inputs": []})[:-5])
        assert edge.infer("a").status == 200
        assert edge.get("/v2/health/ready").status == 200
    assert edge.infer("a").status == 200


def test_a_large_request_takes_turns_with_small_ones(edge: RunningEdge) -> None:
    async def both() -> tuple[float, list[float]]:
        body = {"inputs": [text_tensor(*LENGTHS * 60)], "outputs": [{"name": "label"}]}
        large = asyncio.create_task(_call(edge.port, _request(body, 60_000)))
        small = []
        await asyncio.sleep(0.1)
        while not large.done():
            status, _, took = await _call(edge.port, _request({"inputs": [text_tensor("Why?")]}))
            assert status == 200
            small.append(took)
        assert large.result()[0] == 200
        return large.result()[2], small

    took, small = asyncio.run(both())
    assert len(small) > 5
    assert statistics.median(small) < took / 5


def test_a_run_that_never_ends_is_answered_at_its_deadline_and_seen_by_liveness(
    registry: Path, artefact: Path, tmp_path: Path
) -> None:
    publish(registry, artefact, "900", make_stuck)
    stuck = {
        "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [STUCK_TOKEN, 3]}]
    }
    with running_edge(registry, tmp_path / "log", edge_stuck_s=2) as edge:
        assert edge.infer("a", version="900").status == 200
        path = "/v2/models/ticket-triage/versions/900/infer"
        assert edge.post(path, stuck, headers={"X-Deadline-Ms": "300"}).status == 504
        # The other slot serves on, and readiness with it; liveness tells the supervisor.
        assert edge.infer("a").status == 200
        edge.until(lambda: edge.get("/v2/health/live").status == 503)
        assert edge.infer("a").status == 200
        assert edge.process
        edge.process.kill()


def test_a_port_that_is_taken_is_told_in_a_line(registry: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        edge = RunningEdge(registry, tmp_path / "log", edge_grpc_port=port)
        with pytest.raises(AssertionError):
            edge.start()
    assert f"127.0.0.1:{port} cannot be listened on" in edge.log
    assert "Traceback" not in edge.log


def test_sigterm_answers_what_is_under_way(registry: Path, tmp_path: Path) -> None:
    async def last() -> int:
        body = {"inputs": [text_tensor(*LENGTHS * 100)], "outputs": [{"name": "label"}]}
        call = asyncio.create_task(_call(edge.port, _request(body, 60_000)))
        await asyncio.sleep(0.2)
        assert edge.process
        edge.process.terminate()
        return (await call)[0]

    with running_edge(registry, tmp_path / "log") as edge:
        assert asyncio.run(last()) == 200
        assert edge.process
        assert edge.process.wait(20) in (0, -signal.SIGTERM)


def test_memory_is_flat_over_mixed_lengths(registry: Path, tmp_path: Path) -> None:
    """The full soak is `make soak`; here 240 requests after 120 that settle the arena."""
    with running_edge(registry, tmp_path / "log") as edge:

        async def ask(count: int) -> None:
            async def caller(offset: int) -> None:
                for number in range(offset, count, 4):
                    text = "word " * (number * 7919 % 70)
                    body = {
                        "inputs": [text_tensor(*[text] * (1 + number % 9))],
                        "outputs": [{"name": "label"}],
                    }
                    assert (await _call(edge.port, _request(body, 60_000)))[0] in (200, 503)

            await asyncio.gather(*(caller(offset) for offset in range(4)))

        asyncio.run(ask(120))
        settled = resident_bytes(edge.pid)
        asyncio.run(ask(240))
        assert resident_bytes(edge.pid) - settled < 20_000_000


def test_the_port_is_free_again_after_a_kill(registry: Path, tmp_path: Path) -> None:
    edge = RunningEdge(registry, tmp_path / "log")
    try:
        for _ in range(2):
            edge.start()
            assert edge.infer("a").status == 200
            assert edge.process
            edge.process.kill()
            edge.process.wait()
    finally:
        edge.stop()
