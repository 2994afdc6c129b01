"""How a server of ours ends: nobody who keeps a connection is cut off, and the exit code is 0."""

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from support.edge import free_port

PROGRAM = """
import asyncio, sys
from trivium.server import serve
from trivium.settings import Settings

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("starts", flush=True)
        await asyncio.sleep(float(sys.argv[2]))
        await send({"type": "lifespan.startup.complete"})
        print("started", flush=True)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        print("stored", flush=True)
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

serve(app, Settings(), int(sys.argv[1]))
"""


@contextmanager
def _serving(start_s: float = 0) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(port), str(start_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "starts\n"
        yield process, port
        process.kill()


@contextmanager
def _connected(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    while connection.sock is None:
        with suppress(ConnectionRefusedError):
            connection.connect()
    yield connection
    connection.close()


def _ask(connection: http.client.HTTPConnection, path: str = "/") -> str | None:
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"ok")
    return answer.getheader("Connection")


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    assert process.stdout
    code = process.wait(20)
    return code, process.stdout.read()


def test_a_caller_that_keeps_its_connection_is_answered_and_told_to_close() -> None:
    with _serving() as (process, port), _connected(port) as kept:
        assert _ask(kept) is None
        process.send_signal(signal.SIGTERM)
        with _connected(port) as new:
            assert _ask(new, "/slow") == "close"
        assert _ask(kept) == "close"
        assert _ended(process) == (0, "started\nstored\n")


def test_a_caller_that_asks_nothing_more_does_not_hold_the_end_up() -> None:
    with _serving() as (process, port), _connected(port) as silent:
        assert _ask(silent) is None
        process.send_signal(signal.SIGTERM)
        assert _ended(process) == (0, "started\nstored\n")
        assert silent.sock.recv(1) == b""


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_a_server_that_nobody_asks(times: int) -> None:
    with _serving() as (process, port):
        with _connected(port) as connection:
            assert _ask(connection) is None
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
        assert _ended(process) == (0, "started\nstored\n")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_during_the_start_ends_it_after_the_start() -> None:
    with _serving(start_s=0.5) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert _ended(process) == (0, "started\nstored\n")
