"""A real Unleash server for tests: from npm, on a real PostgreSQL, on a loopback port."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests/unleash/package.json"
FOLDER = ROOT / ".cache/unleash"
NPM_INSTALL = [
    "npm",
    "install",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--omit=dev",
    "--ignore-scripts",
    "--loglevel=error",
]
NODE_MAJOR = 20
INSTALL_S = 900
READY_S = 120


def missing() -> str | None:
    """What this machine lacks for Unleash and how to get it; None if nothing."""
    needs = f"a real Unleash server needs Node {NODE_MAJOR} or newer with npm: https://nodejs.org"
    if not shutil.which("node"):
        return f"there is no `node` on the PATH; {needs}"
    asked = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30)
    major = asked.stdout.strip().removeprefix("v").partition(".")[0]
    if not major.isdecimal() or int(major) < NODE_MAJOR:
        return f"`node --version` says {(asked.stdout or asked.stderr).strip()!r}; {needs}"
    if not shutil.which("npm"):
        return f"there is no `npm` on the PATH; {needs}"
    return None


def install() -> Path:
    """The folder with Unleash in it; installs it where that did not yet happen to its end.

    Raises:
        AssertionError: npm failed or took too long; with what it wrote.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    package = PACKAGE.read_text()
    stamp = FOLDER / "installed"
    wanted = hashlib.sha256(package.encode()).hexdigest()
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return FOLDER
        stamp.unlink(missing_ok=True)
        shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
        (FOLDER / "package.json").write_text(package)
        _run_npm(FOLDER, lock.fileno())
        stamp.write_text(wanted)
    return FOLDER


def _run_npm(folder: Path, lock: int) -> None:
    log = folder / "npm.log"
    # npm holds the lock too: where the tests are killed, the next ones wait until it has ended.
    with log.open("wb") as out:
        process = subprocess.Popen(
            NPM_INSTALL,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
        try:
            status = str(process.wait(INSTALL_S))
        except subprocess.TimeoutExpired:
            status = f"nothing in {INSTALL_S} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != "0":
        wrote = log.read_text(errors="replace")[-4000:]
        raise AssertionError(f"`{' '.join(NPM_INSTALL)}` in {folder} returned {status}:\n{wrote}")


class Unleash:
    """A server with one project and one environment; `kill` and `start` keep its flags."""

    admin_token = "*:*.admin-of-the-tests"
    token = "default:development.backend-of-the-tests"

    def __init__(self, database_url: str, folder: Path) -> None:
        self._database_url = database_url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._log = folder / "unleash.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        """Its address; people see its pages there."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"{self.root}/api"

    def start(self) -> None:
        """Starts it and waits until it is healthy."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", str(FOLDER / "node_modules/unleash-server/dist/server.js")],
                cwd=self._log.parent,
                env={
                    "PATH": os.environ["PATH"],
                    "NODE_ENV": "production",
                    "DATABASE_URL": self._database_url,
                    "DATABASE_SSL": "false",
                    "HTTP_HOST": "127.0.0.1",
                    "HTTP_PORT": str(self.port),
                    "CHECK_VERSION": "false",
                    "SEND_TELEMETRY": "false",
                    "INIT_ADMIN_API_TOKENS": self.admin_token,
                    "INIT_BACKEND_API_TOKENS": self.token,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + READY_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                wrote = self._log.read_text(errors="replace")[-4000:]
                raise AssertionError(f"Unleash did not become healthy:\n{wrote}")
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """Ends it with -9."""
        if self._process:
            self._process.kill()
            self._process.wait(10)

    def create_flag(self, name: str, rollout: int) -> None:
        """A flag that is on for a share of the subjects."""
        self._admin("POST", "", {"name": name, "type": "release"})
        self._admin("POST", f"/{name}/environments/development/strategies", _strategy(name, rollout))
        self.switch(name, on=True)

    def set_rollout(self, name: str, rollout: int) -> None:
        """Changes the share."""
        strategies = f"/{name}/environments/development/strategies"
        (strategy,) = self._admin("GET", strategies)
        self._admin("PUT", f"{strategies}/{strategy['id']}", _strategy(name, rollout))

    def switch(self, name: str, *, on: bool) -> None:
        """Switches a flag's environment on or off."""
        self._admin("POST", f"/{name}/environments/development/{'on' if on else 'off'}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.root}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/admin/projects/default/features{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self.admin_token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code}: {error.read().decode()}") from error

    def __enter__(self) -> "Unleash":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _strategy(name: str, rollout: int) -> dict[str, Any]:
    parameters = {"rollout": str(rollout), "stickiness": "userId", "groupId": name}
    return {"name": "flexibleRollout", "parameters": parameters}


if __name__ == "__main__":
    if lacking := missing():
        sys.stderr.write(f"not installed: {lacking}\n")
    else:
        install()
