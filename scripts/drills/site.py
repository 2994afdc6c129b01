"""The platform on servers of its own, every connection between them through a proxy."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

import psutil

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from drills.proxy import Connect, Proxy, tcp, unix

from support.platform import BASE_PORTS, RunningPlatform, clean_environment, free_offset
from support.postgres import Postgres
from support.unleash import Unleash, install, missing
from support.valkey import Valkey

SUPERVISED = ("gateway", "edge", "worker")
"""What `trivium up` starts again; the others are started again by the drill."""
PARTS = (*SUPERVISED, "llm", "valkey", "postgres", "unleash")
FLAGS = ("ticket-triage", "ticket-summary", "similar-tickets")
DISK_BYTES = 400_000_000
START_S = 120.0


class Site:
    """Started on entering; ended, with everything that it started, on leaving."""

    def __init__(self, *, flag_server: bool = True) -> None:
        self._stack = AsyncExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="trivium-drill-")))
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        self.has_own_disk = self._mount()
        self.proxies: dict[str, Proxy] = {}
        self._llm: subprocess.Popen[bytes] | None = None
        self.no_unleash = missing() if flag_server else "it was not asked for"
        self.unleash: Unleash | None = None

    async def __aenter__(self) -> "Site":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        offset = free_offset()
        self.postgres = self._stack.enter_context(Postgres())
        valkey_folder = self.folder / "valkey"
        valkey_folder.mkdir()
        self.valkey = self._stack.enter_context(Valkey(valkey_folder))
        self.database_url = self.postgres.new_database()
        self._llm_port = BASE_PORTS["llm"] + offset
        self.start_llm()
        self._stack.callback(self._kill_llm)
        for name, connect in (
            ("edge", tcp(BASE_PORTS["edge"] + offset)),
            ("llm", tcp(self._llm_port)),
            ("valkey", tcp(self.valkey.port)),
            ("postgres", unix(self._postgres_socket())),
        ):
            await self._add_proxy(name, connect)
        if not self.no_unleash:
            await asyncio.to_thread(self._start_unleash)
            await self._add_proxy("unleash", tcp(self._unleash.port))
        await self._start_platform(offset)

    @property
    def _unleash(self) -> Unleash:
        assert self.unleash
        return self.unleash

    def _start_unleash(self) -> None:
        """With flags that give everybody the AI, in a database of its own."""
        install()
        own = self._stack.enter_context(Postgres())
        self.unleash = self._stack.enter_context(Unleash(own.new_database(), self.folder))
        for flag in FLAGS:
            self.unleash.create_flag(flag, 100)

    async def _add_proxy(self, name: str, connect: Connect) -> None:
        proxy = self.proxies[name] = Proxy(connect)
        await proxy.start()
        self._stack.push_async_callback(proxy.stop)

    async def _start_platform(self, offset: int) -> None:
        name = self.database_url.split("?")[0].rsplit("/", 1)[-1]
        database = f"postgresql://postgres@127.0.0.1:{self.proxies['postgres'].port}/{name}"
        redis = f"redis://127.0.0.1:{self.proxies['valkey'].port}/0"
        flags = (
            {
                "TRIVIUM_UNLEASH_URL": f"http://127.0.0.1:{self.proxies['unleash'].port}/api",
                "TRIVIUM_UNLEASH_TOKEN": self.unleash.token,
            }
            if self.unleash
            else {}
        )
        self.platform = RunningPlatform(
            self.disk / "state",
            offset,
            ["--database-url", database, "--redis-url", redis],
            {
                "TRIVIUM_EDGE_URL": f"http://127.0.0.1:{self.proxies['edge'].port}",
                "TRIVIUM_LOCAL_BASE_URL": f"http://127.0.0.1:{self.proxies['llm'].port}/v1",
                **flags,
            },
        )
        self.platform.start(wait=False)
        self._stack.push_async_callback(asyncio.to_thread, self.platform.stop)
        for proxy in self.proxies.values():
            self._stack.callback(proxy.heal)
        async with asyncio.timeout(START_S):
            while "Trivium is ready" not in self.platform.output.read_text(errors="replace"):
                assert self.platform.process
                if self.platform.process.poll() is not None:
                    raise RuntimeError(self.platform.shown())
                await asyncio.sleep(0.1)

    def _kill_llm(self) -> None:
        if self._llm:
            self._llm.kill()
            self._llm.wait()

    def start_llm(self) -> None:
        """The language model, which the drill itself looks after."""
        env = clean_environment() | {"TRIVIUM_LLM_PORT": str(self._llm_port)}
        with (self.folder / "llm.log").open("ab") as log:
            self._llm = subprocess.Popen(
                [sys.executable, "-m", "trivium.llm.local_server"], env=env, stdout=log, stderr=log
            )

    def processes(self, part: str) -> list[psutil.Process]:
        """A part's processes that are alive."""
        if part == "postgres":
            root = psutil.Process(self.postgres.server.get_pid())
            return [root, *root.children(recursive=True)]
        if part == "valkey":
            return [psutil.Process(self.valkey.pid)]
        if part == "unleash":
            return [psutil.Process(self.unleash.pid)] if self.unleash else []
        if part == "llm":
            assert self._llm
            return [psutil.Process(self._llm.pid)]
        return [self.platform.child(part)]

    def _postgres_socket(self) -> str:
        found = list(self._sockets())
        assert found, "PostgreSQL has no socket"
        return str(found[0])

    def _sockets(self) -> Iterator[Path]:
        for connection in psutil.Process(self.postgres.server.get_pid()).net_connections(kind="unix"):
            if ".s.PGSQL." in str(connection.laddr):
                yield Path(str(connection.laddr))

    def _mount(self) -> bool:
        """A disk of its own that can be filled; only root may."""
        if os.geteuid() != 0:
            return False
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "trivium-drill", str(self.disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)
        return True
