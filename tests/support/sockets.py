"""A socket that answers as it is told: whole, slowly, in the middle of a word, or not at all."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Handle = Callable[[asyncio.StreamWriter], Awaitable[None]]
End = Literal["politely", "cut", "stalled", "reset"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. The names of the headers are in small letters."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(slots=True)
class Socket:
    """A running one."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller has closed its connection before its answer was whole."""


@asynccontextmanager
async def socket(*handles: Handle) -> AsyncIterator[Socket]:
    """Answers the first request by the first handle, and so on; the last answers all that come after."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (h.partition(": ") for h in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            running.asked.append(Asked(line, headers, body))
            answering = asyncio.ensure_future(handles[min(len(running.asked), len(handles)) - 1](writer))
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                running.left.set()
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller is away, or the test over
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running = Socket(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield running


def http(status: int, body: object = b"", *headers: str) -> Handle:
    """A whole answer; in JSON, if the body is no bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Connection: close"]
    head += ["Content-Type: application/json", *headers]

    async def handle(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + raw)
        await writer.drain()

    return handle


def sse(events: bytes, end: End = "politely", size: int | None = None, *headers: str) -> Handle:
    """A stream of these bytes, in parts of a size, and how it ends."""
    head = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Connection: close"]
    head += ["Content-Type: text/event-stream", *headers]

    async def handle(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
        for start in range(0, len(events), size or len(events) or 1):
            part = events[start : start + (size or len(events))]
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        if end == "politely":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        elif end != "cut":
            await asyncio.sleep(5 if end == "stalled" else 0.05)
            writer.transport.abort()

    return handle


async def reset(writer: asyncio.StreamWriter) -> None:
    """No answer, and no connection."""
    writer.transport.abort()


async def cut(writer: asyncio.StreamWriter) -> None:
    """An answer that ends before its end."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"a": [')
    await writer.drain()


async def silent(writer: asyncio.StreamWriter) -> None:
    """No answer."""
    await asyncio.sleep(5)


async def stalled(writer: asyncio.StreamWriter) -> None:
    """The beginning of an answer, and nothing more."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(5)
