"""A provider on a loopback port that breaks at the socket in every way that providers are known to.

Speaks `POST /v1/chat/completions`. What happens to a request is decided by its model's name, see FATES; it
counts what it was asked, and notes which connections their callers closed.
"""

import asyncio
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

TEXT = "The quick brown fox jumps over the lazy dog."
WORDS = [word + " " for word in TEXT.split(" ")[:-1]] + [TEXT.split(" ")[-1]]
USAGE = {"prompt_tokens": 11, "completion_tokens": 9, "total_tokens": 20}
_HEAD = "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}\r\n"


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float


class Call:
    """One request, and what can be done to its connection."""

    def __init__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked = asked
        self.writer = writer

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.asked.body.get("stream"))

    async def send(self, data: bytes | str) -> None:
        """Sends bytes as they are."""
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def json(self, status: int, body: object, *headers: str) -> None:
        """A whole answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        more = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(raw)}", *headers))
        await self.send(_HEAD.format(status=status, kind="application/json", more=more).encode() + raw)

    async def error(self, status: int, message: str, *headers: str, **more: object) -> None:
        """An error in OpenAI's shape."""
        await self.json(status, {"error": {"message": message, "type": "x", "code": None, **more}}, *headers)

    async def completion(self, text: str = TEXT, finish: str | None = "stop", **message: object) -> None:
        """A whole answer, or, if a stream was asked for, one in pieces."""
        if self.streams:
            await self.open()
            await self.pieces([word + " " for word in text.split(" ")[:-1]] + [text.split(" ")[-1]])
            await self.finish(finish)
            return
        said = {"role": "assistant", "content": text, **message}
        await self.json(
            200,
            {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": self.asked.model,
                "choices": [{"index": 0, "message": said, "finish_reason": finish}],
                "usage": USAGE,
            },
        )

    async def open(self, *headers: str) -> None:
        """The head of a stream that ends with its connection."""
        more = "".join(f"{line}\r\n" for line in ("Connection: close", *headers))
        await self.send(_HEAD.format(status=200, kind="text/event-stream", more=more))

    async def event(self, body: object) -> None:
        """One event."""
        await self.send(
            b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"
        )

    async def piece(self, delta: dict[str, object], finish: str | None = None) -> None:
        """One piece of an answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        await self.event(
            {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": self.asked.model,
                "choices": [choice],
            }
        )

    async def pieces(self, words: list[str]) -> None:
        """The role, then a piece a word."""
        await self.piece({"role": "assistant", "content": ""})
        for word in words:
            await self.piece({"content": word})

    async def finish(self, reason: str | None = "stop", *, done: bool = True, usage: bool = True) -> None:
        """The end of a stream, as much of it as is wanted."""
        if reason:
            await self.piece({}, reason)
        if usage:
            await self.event({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        if done:
            await self.event(b"[DONE]")

    async def left(self, seconds: float = 60.0) -> None:
        """Says nothing until the caller goes away."""
        await asyncio.sleep(seconds)

    def reset(self) -> None:
        """Breaks the connection with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Fate = Callable[[Call], Awaitable[None]]


@dataclass
class BrokenProvider:
    """The server; `fates` says what becomes of a model's requests, `then` what of those after the first n."""

    fates: dict[str, Fate] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    hung_up: Counter[str] = field(default_factory=Counter)
    """Requests whose caller went away before their end, by model."""
    _server: asyncio.Server | None = None
    _port: int = 0
    _open: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base URL of its OpenAI wire."""
        return f"http://127.0.0.1:{self._port}/v1"

    def of(self, model: str) -> list[Asked]:
        """The requests for a model, in order."""
        return [one for one in self.asked if one.model == model]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def start(self) -> None:
        """Listens; after a stop, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections, and breaks those that are open."""
        assert self._server
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; True if the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
        asked = Asked(str(body.get("model")), body, headers, time.monotonic())
        self.asked.append(asked)
        call = Call(asked, writer)
        fate = self.fates.get(asked.model, Call.completion)
        working = asyncio.ensure_future(fate(call))
        leaving = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.hung_up[asked.model] += 1
                return False
            await working
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.wait({working, leaving})
        return not writer.is_closing() and not call.streams


async def _gone(reader: asyncio.StreamReader) -> None:
    # To read would take the beginning of the next request.
    while not reader.at_eof():
        await asyncio.sleep(0.01)
