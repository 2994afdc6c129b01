"""Child processes: started in order, restarted with back-off, ended in order, found again after a crash."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
from rich.console import Console
from rich.markup import escape

from trivium.errors import ConfigurationError

STOP_S = 12.0
READY_S = 60.0
POLL_S = 0.05
HEALTHY_S = 30.0
MAX_BACKOFF_S = 15.0
MAX_LOG_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the platform."""

    name: str
    argv: list[str]
    env: dict[str, str]
    ready: Callable[[], Awaitable[bool]]
    address: str


@dataclass(slots=True)
class Child:
    """A running part."""

    part: Part
    log_path: Path
    console: Console
    on_change: Callable[[], None]
    process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = field(default=None)

    async def start(self) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            ConfigurationError: it ended, or was not ready in time; the last lines of its log are named.
        """
        began = time.monotonic()
        await self._spawn()
        await self._until_ready()
        took = time.monotonic() - began
        self.console.print(f"  [green]✓[/] {self.part.name:<9}{self.part.address}  ({took:.1f} s)")
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{self.part.name}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to whatever is left of the process's group."""
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            self.console.print(f"  {self.part.name} did not end within {STOP_S:.0f} s: killed")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def _spawn(self) -> None:
        with self._log() as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.part.argv,
                env={**os.environ, **self.part.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches the supervisor, which ends the parts in order.
                start_new_session=True,
            )
        self.on_change()

    def _log(self) -> IO[bytes]:
        if self.log_path.exists() and self.log_path.stat().st_size > MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        return self.log_path.open("ab")

    async def _until_ready(self) -> None:
        assert self.process
        try:
            async with asyncio.timeout(READY_S):
                while not await self.part.ready():
                    if self.process.returncode is not None:
                        raise ConfigurationError(
                            f"{self.part.name} {_ended(self.process.returncode)}; "
                            f"the end of {self.log_path}:\n{_tail(self.log_path)}"
                        )
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ConfigurationError(
                f"{self.part.name} was not ready within {READY_S:.0f} s; see {self.log_path}"
            ) from None

    async def _keep(self) -> None:
        """Restarts the process whenever it ends, later each time that it does not last."""
        backoff_s = 0.5
        while True:
            assert self.process
            began = time.monotonic()
            code = await self.process.wait()
            if time.monotonic() - began > HEALTHY_S:
                backoff_s = 0.5
            self.console.print(
                f"  [yellow]![/] {self.part.name} {_ended(code)}; starts again in {backoff_s:.1f} s "
                f"(log: {self.log_path})"
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            try:
                await self._spawn()
                await self._until_ready()
            except ConfigurationError as error:
                self.console.print(f"  [red]![/] {escape(error.detail)}")
                if self.process.returncode is None:
                    self.process.kill()
            except OSError as error:
                self.console.print(f"  [red]![/] {self.part.name}: {error.strerror}")
            else:
                self.console.print(f"  [green]✓[/] {self.part.name} is back")


class ProcessFile:
    """Which processes this installation started; read by the next start if this one is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, children: list[Child]) -> None:
        """Notes the running children, with the moment each was created: pids are reused."""
        running = [c.process.pid for c in children if c.process and c.process.returncode is None]
        known = []
        for pid in running:
            with contextlib.suppress(psutil.Error):
                known.append({"pid": pid, "created": psutil.Process(pid).create_time()})
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(known))
        partial.replace(self._path)

    def end_orphans(self, console: Console) -> None:
        """Ends what an earlier supervisor left behind."""
        orphans = [process for entry in self._read() if (process := _alive(entry))]
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(orphans, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        if orphans:
            pids = ", ".join(str(process.pid) for process in orphans)
            console.print(f"  ended the processes {pids} of a start that was killed")

    def _read(self) -> list[dict[str, float]]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, json.JSONDecodeError):
            return []
        return found if isinstance(found, list) else []


def _alive(entry: dict[str, float]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(entry["pid"]))
        same = abs(process.create_time() - entry["created"]) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError):
        return None


def _ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
