"""TLS in front of a real server that has none built in: as it would end it, PostgreSQL's way or plainly."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""What a client of PostgreSQL says first (PostgreSQL's documentation, *Message Formats*)."""


class Authority:
    """Signs certificates; its own is in a file."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._own = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._own.cert_pem.write_to_path(str(self.file))
        self._folder, self._name = folder, name

    def server(self, host: str, trusts: "Authority | None" = None) -> ssl.SSLContext:
        """A server's side for a host; with `trusts` it demands a client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._own.issue_cert(host).configure_cert(context)
        if trusts:
            context.load_verify_locations(trusts.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[Path, Path]:
        """Files with a client's certificate and key."""
        issued = self._own.issue_cert("client")
        cert, key = self._folder / f"{self._name}-client.pem", self._folder / f"{self._name}-client.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key


@dataclass(frozen=True)
class Front:
    """Where it listens."""

    port: int


@contextmanager
def tls_front(
    target: str | int, context: ssl.SSLContext | None, *, postgresql: bool = False
) -> Iterator[Front]:
    """Listens on 127.0.0.1 for a unix socket's path or a loopback port; without a context it is plain."""
    started, found = threading.Event(), list[int]()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
                await lead_on(reader, writer)
        finally:
            writer.close()

    async def lead_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if context and postgresql:
            if await reader.readexactly(8) != SSL_REQUEST:
                return  # as with `hostssl` alone in pg_hba.conf
            writer.write(b"S")
            await writer.drain()
        if context:
            await writer.start_tls(context)
        back, forth = await (
            asyncio.open_unix_connection(target)
            if isinstance(target, str)
            else asyncio.open_connection("127.0.0.1", target)
        )
        await asyncio.gather(_pass_on(reader, forth), _pass_on(back, writer))

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        started.set()
        await ended.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)  # what was closed is ended by the loop

    thread = threading.Thread(target=loop.run_until_complete, args=[run()])
    thread.start()
    assert started.wait(10)
    try:
        yield Front(found[0])
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError, ssl.SSLError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
    finally:
        writer.close()
