"""Versions of the platform beside each other, and traffic that a balancer spreads over them."""

import asyncio
import io
import itertools
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from support.edge import KEY, free_port
from support.platform import ROOT, clean_environment

START_S = 60
TEXT = "My card payment was declined at the till. Why? I have money on the account."


@dataclass(frozen=True)
class Release:
    """The code of one version, run by this environment's interpreter."""

    tree: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process run this code: its folders come before the installed ones."""
        names = ("shared", "services/gateway", "services/batch-worker", "services/edge-model")
        path = os.pathsep.join(str(self.tree / name) for name in names)
        # Bytecode lies beside the code, see `runs_its_own`.
        return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": ""}

    def run(self, *words: str, env: dict[str, str]) -> str:
        """A `trivium` command that must succeed; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "trivium.cli.main", *words],
            env=clean_environment() | env | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs_its_own(self, *modules: str) -> bool:
        """Whether this code was loaded, and not what is installed: a process leaves its bytecode there."""
        return all(list((self.tree / module).glob("__pycache__/*.pyc")) for module in modules)


def release_of(commit: str, folder: Path) -> Release | None:
    """The code of a commit of this repository; None if its history does not reach so far."""
    done = subprocess.run(
        ["git", "archive", commit, "shared", "services", "features"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Release(folder)


@dataclass
class Instance:
    """A gateway or a worker of a release."""

    name: str
    release: Release
    module: str
    settings: dict[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / f"{self.name}.log").read_text()

    def start(self) -> None:
        """Starts it; it takes a second or two until it is ready."""
        service = "GATEWAY" if self.module == "gateway" else "WORKER"
        own = {
            f"TRIVIUM_{service}_PORT": str(self.port),
            "TRIVIUM_STATE_DIR": str(self.folder / f"state-{self.name}"),
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_LOG_LEVEL": "warning",
        }
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env=clean_environment() | own | self.settings | self.release.environment,
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> int:
        """SIGTERM; waits for its end, and returns its exit code."""
        assert self.process
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 30)

    def kill(self) -> None:
        """Ends whatever is left of it."""
        if self.process and self.process.poll() is None:
            with suppress(psutil.Error):
                self.process.kill()
            self.process.wait()


@dataclass
class Traffic:
    """Open-loop requests, spread over the instances in rotation, each on a connection of its own."""

    session: aiohttp.ClientSession
    key: str
    rotation: list[Instance] = field(default_factory=list)
    answered: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    by: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _turn: Any = field(default_factory=itertools.count)
    _open: set["asyncio.Task[None]"] = field(default_factory=set)

    async def until_ready(self, instance: Instance) -> None:
        """Waits as a balancer does, and takes it into rotation."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert instance.process and instance.process.poll() is None, instance.log[-3000:]
            with suppress(aiohttp.ClientError):
                async with self.session.get(f"{instance.url}/health/ready") as response:
                    if response.status == 200:
                        self.rotation.append(instance)
                        return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{instance.name} is not ready: {instance.log[-3000:]}")

    @asynccontextmanager
    async def flowing(self, per_second: float) -> AsyncIterator[None]:
        """Requests at a steady rate, whether or not the last was answered, until the end of the block."""
        flow = asyncio.create_task(self._flow(1 / per_second))
        try:
            yield
        finally:
            flow.cancel()
            with suppress(asyncio.CancelledError):
                await flow
            await asyncio.gather(*self._open)

    async def reaches(self, count: int, *, by: Instance | None = None) -> None:
        """Waits until so many more have been answered, by one instance or by any."""
        wanted = self._count(by) + count
        end = time.monotonic() + START_S
        while self._count(by) < wanted:
            assert time.monotonic() < end and not self.failed, self.failed[:3]
            await asyncio.sleep(0.02)

    def _count(self, by: Instance | None) -> int:
        return self.by.get(by.name, 0) if by else sum(self.by.values())

    async def _flow(self, every_s: float) -> None:
        began, number = time.monotonic(), 0
        while True:
            task = asyncio.create_task(self._visit(number))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number * every_s - time.monotonic()))

    async def _visit(self, number: int) -> None:
        """A question, and what its user says of the answer, wherever the balancer sends either."""
        body = {
            "input": {"text": f"{number}: {TEXT}"},
            "subject": {"id": f"u-{number}"},
            "deadline_ms": 10_000,
        }
        answer = await self._call("/v1/features/ticket-triage/infer", body)
        if answer is None:
            return
        own = answer["inference_id"]
        self.answered[own] = answer
        said = {"inference_id": own, "kind": "correction", "value": {"label": "card_arrival"}}
        if await self._call("/v1/feedback", said, {"Idempotency-Key": f"said-{number}"}):
            self.said.add(own)

    async def _call(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        instance = self.rotation[next(self._turn) % len(self.rotation)]
        sent = {"Authorization": f"Bearer {self.key}", "Connection": "close", **(headers or {})}
        try:
            async with self.session.post(instance.url + path, json=body, headers=sent) as response:
                found: dict[str, Any] = await response.json()
                if response.status in (200, 201, 202):
                    self.by[instance.name] = self.by.get(instance.name, 0) + 1
                    return found
                self.failed.append(f"{instance.name} {path}: {response.status} {found}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(f"{instance.name} {path}: {error!r}")
        return None
