"""The platform, started as a user would start it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
READY_S = 120
BASE_PORTS = {"gateway": 8080, "edge": 8081, "edge_grpc": 8082, "llm": 8083, "worker": 8084}


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class RunningPlatform:
    """`trivium up` in a process of its own."""

    state_dir: Path
    offset: int
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> "RunningPlatform":
        """Starts it, and by default waits until it says that it is ready."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.output.unlink(missing_ok=True)
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trivium.cli.main", "up", *self.args],
                cwd=ROOT,
                env=clean_environment()
                | {"TRIVIUM_STATE_DIR": str(self.state_dir), "TRIVIUM_PORT_OFFSET": str(self.offset)}
                | self.env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.wait_for("Trivium is ready")
        return self

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.state_dir.parent / f"{self.state_dir.name}.out"

    def wait_for(self, text: str, seconds: float = READY_S, count: int = 1) -> None:
        """Waits until it has printed a text so many times."""
        until = time.monotonic() + seconds
        while self.output.read_text(errors="replace").count(text) < count:
            assert self.process
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"no {text!r} (exit {self.process.poll()}):\n{self.shown()}")
            time.sleep(0.05)

    def shown(self) -> str:
        """What it printed, and the ends of its parts' logs."""
        logs = [
            f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in self.state_dir.glob("logs/*.log")
        ]
        return "\n".join([self.output.read_text(errors="replace"), *logs])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal to the supervisor and waits for its end; returns its exit code."""
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        return self.process.wait(timeout=60)

    @property
    def key(self) -> str:
        """The development key."""
        return (self.state_dir / "dev.key").read_text().strip()

    @property
    def service_key(self) -> str:
        """The key between services."""
        return (self.state_dir / "service.key").read_text().strip()

    def url(self, service: str, path: str) -> str:
        """The address of a path of a service."""
        return f"http://127.0.0.1:{BASE_PORTS[service] + self.offset}{path}"

    def call(
        self,
        path: str,
        body: Any = None,
        *,
        service: str = "gateway",
        key: str | None = "",
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        method: str | None = None,
    ) -> Answer:
        """One HTTP call; with `key=None` without a key."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = (
                f"Bearer {key or (self.key if service == 'gateway' else self.service_key)}"
            )
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url(service, path), data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return _answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return _answer(error.code, error.headers, error.read())

    def infer(self, feature: str, **body: Any) -> dict[str, Any]:
        """One inference that must succeed."""
        answer = self.call(f"/v1/features/{feature}/infer", {"subject": {"id": "u-1"}, **body})
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body
        return found

    def child(self, service: str) -> psutil.Process:
        """The process of one part."""
        wanted = {
            "valkey": "valkey",
            "llm": "trivium.llm.local_server",
            "edge": "edge_model",
            "worker": "batch_worker",
            "gateway": "gateway",
        }[service]
        assert self.process
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and (words[-1] == wanted or wanted in Path(words[0]).name):
                    return process
        raise AssertionError(f"no {service} is running:\n{self.shown()}")

    @contextlib.contextmanager
    def without(self, *services: str) -> Any:
        """Parts killed with -9 and kept from being restarted until the end of the block."""
        assert self.process
        victims = [self.child(service) for service in services]
        before = self.output.read_text().count("is back")
        self.process.send_signal(signal.SIGSTOP)
        try:
            for victim in victims:
                victim.kill()
            psutil.wait_procs(victims, timeout=0.5)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
            self.wait_for("is back", count=before + len(victims))


def clean_environment() -> dict[str, str]:
    """The environment without the caller's settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRIVIUM_", "ANTHROPIC_", "OPENAI_", "UNLEASH_"))
    }


def free_offset() -> int:
    """An offset at which every port of the platform is free now."""
    for offset in range(1000 + os.getpid() % 500 * 20, 50_000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in BASE_PORTS.values():
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return offset
    raise AssertionError("no free ports")


def _answer(status: int, headers: Any, raw: bytes) -> Answer:
    kind = headers.get("Content-Type", "")
    body = json.loads(raw) if "json" in kind else raw.decode()
    return Answer(status, body, {name.lower(): value for name, value in headers.items()})
