"""A real edge model service in a process of its own."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from support.platform import clean_environment

KEY = "key-of-the-edge-tests"
START_S = 60


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON of it."""
        return json.loads(self.raw)


class RunningEdge:
    """Serves the models of a folder (or a URL) on free ports, until stopped."""

    def __init__(self, models: Path | str, log: Path, **settings: Any) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self._log = log
        self._environment = {
            **clean_environment(),
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_EDGE_PORT": str(self.port),
            "TRIVIUM_EDGE_GRPC_PORT": str(self.grpc_port),
            ("TRIVIUM_MODELS_DIR" if isinstance(models, Path) else "TRIVIUM_MODELS_URL"): str(models),
            **{f"TRIVIUM_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: bool = True) -> "RunningEdge":
        """Starts it; waits until it is ready, or with `ready=False` until it is alive."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_model"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        path = "/v2/health/ready" if ready else "/v2/health/live"
        self.until(lambda: self.get(path, key=None).status == 200)
        return self

    def until(self, holds: Any, seconds: float = START_S) -> None:
        """Waits until something holds; what cannot be connected to does not hold."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process
            assert self.process.poll() is None, self.log[-3000:]
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """Ends it as its supervisor would."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    @property
    def log(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process
        return self.process.pid

    def get(self, path: str, key: str | None = KEY) -> Reply:
        """GET."""
        return self._call("GET", path, None, {}, key)

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = KEY,
    ) -> Reply:
        """POST of JSON, or of raw bytes."""
        data = raw if raw is not None else json.dumps(body).encode()
        return self._call("POST", path, data, headers or {}, key)

    def infer(self, *texts: str, version: str = "", **more: Any) -> Reply:
        """One inference over texts."""
        headers = more.pop("headers", None)
        path = "/v2/models/ticket-triage" + (f"/versions/{version}" if version else "") + "/infer"
        return self.post(path, {"inputs": [text_tensor(*texts)], **more}, headers=headers)

    def metric(self, line: str) -> float:
        """The value of the metric whose line starts so; 0 if there is none."""
        for found in self.get("/metrics").raw.decode().splitlines():
            if found.startswith(line):
                return float(found.rsplit(" ", 1)[1])
        return 0.0

    def states(self) -> dict[str, str]:
        """State or reason of every version in the registry."""
        index = self.post("/v2/repository/index").body
        return {entry["version"]: entry["reason"] or entry["state"] for entry in index}

    def _call(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], key: str | None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = dict(headers)
            if key:
                sent["Authorization"] = f"Bearer {key}"
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        finally:
            connection.close()


def end_on_sigterm() -> None:
    """Lets a script that is ended by SIGTERM end what it started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextlib.contextmanager
def running_edge(models: Path | str, log: Path, **settings: Any) -> Iterator[RunningEdge]:
    """A service for the length of a block."""
    edge = RunningEdge(models, log, **settings)
    try:
        yield edge.start()
    finally:
        edge.stop()


def text_tensor(*texts: Any, **changes: Any) -> dict[str, Any]:
    """The input `text`."""
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


def outputs_of(reply: Reply) -> dict[str, Any]:
    """Outputs by name, as arrays of their shapes."""
    assert reply.status == 200, reply
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in reply.body["outputs"]}


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    import psutil

    found: int = psutil.Process(pid).memory_info().rss
    return found


REAL_DATA = Path(os.environ.get("REAL_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
