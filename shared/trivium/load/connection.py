"""HTTP/1.1 at the least cost: one request at a time over a keep-alive connection."""

import asyncio
import importlib
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from trivium.load.target import Address, Call

FREE = -1
BROKEN = -2
"""Stands where an HTTP status would: the connection failed."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop, or on asyncio's own loop where uvloop is missing."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


class Owner(Protocol):
    """Who is told what became of a connection's request."""

    def answered(self, connection: "Connection", index: int, status: int) -> None:
        """The request `index` has its answer; `status` is BROKEN without one."""

    def lost(self, connection: "Connection") -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """One connection; `index` is its request's, or FREE."""

    __slots__ = ("_began", "_owner", "_parser", "freed_at", "index", "transport")
    transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._began = b""
        self._parser = HttpResponseParser(self)
        self.index = FREE
        self.freed_at = 0.0

    def send(self, index: int, request: bytes) -> None:
        """Writes a request; the connection must be free."""
        self.index = index
        self._began = b""
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport; uvloop's are no subclasses of asyncio's."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parses; what is not HTTP breaks the connection."""
        if not self._began:
            self._began = data
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError:
            raise
        except (HttpParserError, HttpParserUpgrade):
            self.transport.abort()

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if self.index == FREE or not self._parser.should_keep_alive():
            self.transport.close()
        self._finish(status)

    def connection_lost(self, error: Exception | None) -> None:
        """An answer without a length ends here; any other is cut short."""
        if self.index != FREE:
            self._finish(BROKEN if error else self._until_close())
        self._owner.lost(self)
        # The parser and this object hold each other, and no garbage is collected during a stage.
        del self._parser

    def _finish(self, status: int) -> None:
        index, self.index = self.index, FREE
        if index != FREE:
            self.freed_at = time.monotonic()
            self._owner.answered(self, index, status)

    def _until_close(self) -> int:
        head, ended, _ = self._began.lower().partition(b"\r\n\r\n")
        measured = b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head
        return self._parser.get_status_code() if ended and not measured else BROKEN


class ReadingConnection(Connection):
    """A connection that keeps the answer's body."""

    __slots__ = ("body",)

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self.body = bytearray()

    def send(self, index: int, request: bytes) -> None:
        """Writes a request and forgets the last answer."""
        self.body.clear()
        super().send(index, request)

    def on_body(self, data: bytes) -> None:
        """Called by the parser for each piece."""
        self.body += data


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes


async def connect(address: Address, ip: str, connection: Connection) -> None:
    """Opens a connection.

    Raises:
        OSError: there is none to be had; TLS failures too.
    """
    hostname = address.host if address.context else None
    await asyncio.get_running_loop().create_connection(
        lambda: connection, ip, address.port, ssl=address.context, server_hostname=hostname
    )


async def resolve(address: Address) -> str:
    """The first of a host's IP addresses that takes a connection, else its first.

    Raises:
        OSError: the name is unknown.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    ips = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for ip in ips if len(ips) > 1 else []:
        try:
            async with asyncio.timeout(1.0):
                transport, _ = await loop.create_connection(asyncio.Protocol, ip, address.port)
        except OSError:
            continue
        transport.close()
        return ip
    return ips[0]


class _Once:
    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def answered(self, connection: Connection, index: int, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def lost(self, connection: Connection) -> None:
        pass


async def fetch(call: Call, timeout_s: float) -> Answer:
    """One request on a connection of its own, timed out after `timeout_s`.

    Raises:
        OSError: no connection, no answer on it, or none in time (TimeoutError).
    """
    once = _Once()
    connection = ReadingConnection(once)
    try:
        async with asyncio.timeout(timeout_s):
            await connect(call.address, await resolve(call.address), connection)
            connection.send(0, call.raw)
            status = await once.status
    finally:
        if hasattr(connection, "transport"):
            connection.transport.abort()
    if status == BROKEN:
        raise ConnectionResetError("closed without an answer")
    return Answer(status, bytes(connection.body))
