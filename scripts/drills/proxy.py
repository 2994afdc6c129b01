"""A TCP connection that can be made to say nothing, or everything late."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
CHUNK_BYTES = 65_536


class Proxy:
    """Passes bytes on between a loopback port and a server; what it holds back is passed on later."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open = asyncio.Event()
        self._open.set()
        self.delay_s = 0.0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes every connection."""
        assert self._server
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def swallow(self) -> None:
        """From now on connections are taken, and nothing comes through."""
        self._open.clear()

    def slow(self, delay_s: float) -> None:
        """Every piece takes so long."""
        self.delay_s = delay_s

    def heal(self) -> None:
        """Passes on what was held back, and then at once."""
        self.delay_s = 0.0
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._relays.add(task)
        try:
            await self._open.wait()
            far_reader, far_writer = await self._connect()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far_writer))
                both.create_task(self._pass(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # one of the two is away
        finally:
            writer.close()
            self._relays.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._open.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()


def tcp(port: int) -> Connect:
    """To a port of this machine."""
    return lambda: asyncio.open_connection("127.0.0.1", port)


def unix(path: str) -> Connect:
    """To a unix socket."""
    return lambda: asyncio.open_unix_connection(path)
