"""A real server in a process of its own, to be frozen and killed."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trivium.load import Shape, Target, make_bodies


class ServerProcess:
    """One running `server.py`."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("server.py")), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.base}/v2/models/m/infer"

    def target(
        self, texts: tuple[str, ...] = ("hello",), deadline_ms: float = 100.0, **options: Any
    ) -> Target:
        bodies = make_bodies(Shape.OPEN_INFERENCE, texts, deadline_ms)
        return Target.post(self.url, bodies, deadline_ms=deadline_ms, **options)

    def seen(self) -> dict[str, list[str]]:
        with urllib.request.urlopen(f"{self.base}/seen", timeout=10) as answer:
            found: dict[str, list[str]] = json.load(answer)
            return found

    def later(self, seconds: float, number: signal.Signals) -> None:
        """Sends a signal to the server in a while."""
        asyncio.get_running_loop().call_later(seconds, self.process.send_signal, number)

    async def freeze(self, after_s: float, seconds: float) -> None:
        """Stops the server in a while, and wakes it so long after it was really stopped."""
        await asyncio.sleep(after_s)
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, which end with the test."""
    started: list[ServerProcess] = []

    def start(*options: str) -> ServerProcess:
        started.append(ServerProcess(*options))
        return started[-1]

    yield start
    for server in started:
        server.end()
