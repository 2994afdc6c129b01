"""Connections of the HTTP server that are cut when they are slow, and heads of requests that are bounded.

By itself uvicorn waits for a head, a body and a reader as long as they like, and holds a head of any size.
"""

import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trivium.metrics import CONNECTIONS_REFUSED
from trivium.settings import Settings

MAX_TARGET_BYTES = 8_192
"""Of the path and the query."""
BODY_PROGRESS_BYTES = 1_024
"""What a body must bring in each `body_stall_s`, if it does not end."""
MAX_PIPELINED = 32
"""Requests that wait for the one before them to be answered; uvicorn reads on however many there are."""
SPARE = 2
"""So many times the connections are taken for the sake of health probes; what is beyond is closed unheard."""
_HEALTH = b"/health/"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the server itself, before any application is asked."""

    status: HTTPStatus
    code: str
    detail: str

    def answer(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The whole response, after which the connection is closed."""
        body = orjson.dumps(
            {
                "type": f"urn:trivium:error:{self.code}",
                "title": self.status.phrase,
                "status": self.status.value,
                "detail": self.detail,
                "code": self.code,
            }
        )
        named = [(name, value) for name, value in headers if name != b"connection"]
        named += [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        first = f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n".encode()
        return first + b"".join(b"%b: %b\r\n" % header for header in named) + b"\r\n" + body


MALFORMED = Refusal(HTTPStatus.BAD_REQUEST, "malformed_request", "This is no HTTP/1.1 request")
FULL = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "Too many connections are open")
SLOW_HEAD = Refusal(HTTPStatus.REQUEST_TIMEOUT, "slow_head", "The request's head did not come in time")
SLOW_BODY = Refusal(HTTPStatus.REQUEST_TIMEOUT, "slow_body", "The request's body comes too slowly")
PIPELINED = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_pipelined",
    f"Over {MAX_PIPELINED} requests were sent before the first was answered",
)
LONG_TARGET = Refusal(
    HTTPStatus.REQUEST_URI_TOO_LONG,
    "target_too_long",
    f"The path and the query are over {MAX_TARGET_BYTES} bytes",
)


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with bounds; `look` is to be called about once a second."""

    settings: ClassVar[Settings]
    _refused = False
    _reason: Refusal | None = None
    _made_at = 0.0
    _asked = False
    _head_since: float | None = None
    _head_bytes = 0
    _in_body = False
    _body_bytes = 0
    _body_since = 0.0
    _write_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """A caller connects."""
        super().connection_made(transport)
        self._made_at = self.loop.time()
        if len(self.connections) > SPARE * self.settings.max_connections:
            CONNECTIONS_REFUSED.labels(FULL.code).inc()
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, a body or both."""
        if self._refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None and not self._refused:
            reason = self._fault_of_head(self._head_bytes)
            if reason:
                self._refuse(reason)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """The head is there: it is refused, or an application is asked."""
        self._body_since, self._head_since = self._head_since or 0.0, None
        if self._head_bytes > self.settings.max_head_bytes or len(self.url) > MAX_TARGET_BYTES:
            whole = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._reason = self._fault_of_head(whole)
        full = len(self.connections) > self.settings.max_connections
        if full and not self.url.startswith(_HEALTH):
            self._reason = FULL
        if len(self.pipeline) >= MAX_PIPELINED:
            self._reason = PIPELINED
        if self._reason:
            raise ValueError(self._reason.code)  # the parser stops, and send_400_response is called
        super().on_headers_complete()
        self._asked, self._in_body, self._body_bytes = True, True, 0

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there as a whole; what follows in the same bytes is the next one's head."""
        self._in_body, self._head_bytes = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser stopped at is answered."""
        self._refuse(self._reason or MALFORMED)

    def pause_writing(self) -> None:
        """The caller reads more slowly than it is answered."""
        super().pause_writing()
        self._write_since = self.loop.time()

    def resume_writing(self) -> None:
        """The caller has read on."""
        super().resume_writing()
        self._write_since = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come for long; an answer that nobody has fetched is dropped."""
        if self.transport.get_write_buffer_size():
            self._abort()
        else:
            super().timeout_keep_alive_handler()

    def look(self) -> None:
        """Ends the connection if its caller is too slow."""
        now, bounds = self.loop.time(), self.settings
        if self._write_since is None and self.transport.is_closing():
            self._write_since = now  # what was written last still waits for its reader
        if self._write_since is not None:
            if now - self._write_since > bounds.write_stall_s:
                CONNECTIONS_REFUSED.labels("slow_reader").inc()
                self._abort()
        elif self._head_since is not None:
            if now - self._head_since > bounds.head_timeout_s:
                self._refuse(SLOW_HEAD)
        elif self._in_body:
            self._look_at_body(now)
        elif not self._asked and now - self._made_at > bounds.keep_alive_s:
            self.transport.close()

    def _look_at_body(self, now: float) -> None:
        if self.flow.read_paused:  # it is we who are slow
            self._body_since, self._body_bytes = now, 0
        elif now - self._body_since > self.settings.body_stall_s:
            if self._body_bytes < BODY_PROGRESS_BYTES:
                self._refuse(SLOW_BODY)
            self._body_since, self._body_bytes = now, 0

    def _fault_of_head(self, whole: int) -> Refusal | None:
        if len(self.url) > MAX_TARGET_BYTES:
            return LONG_TARGET
        if whole > self.settings.max_head_bytes:
            return Refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                f"The request's head is over {self.settings.max_head_bytes} bytes",
            )
        return None

    def _refuse(self, refusal: Refusal) -> None:
        """Answers, if nothing was answered yet, and closes; the application sees that its caller left."""
        self._refused = True
        CONNECTIONS_REFUSED.labels(refusal.code).inc()
        cycle = self.cycle
        under_way = self._asked and not cycle.response_complete
        if under_way and cycle.response_started:
            self._abort()
            return
        if under_way:
            self._tell_left()
        self.transport.write(refusal.answer(self.server_state.default_headers))
        self.transport.close()

    def _abort(self) -> None:
        self._tell_left()
        # What the kernel still holds for a caller that does not read goes too.
        given = self.transport.get_extra_info("socket")
        given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _tell_left(self) -> None:
        """The application hears it at once, and writes no more."""
        if self._asked:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def bounded(given: Settings) -> type[BoundedHttp]:
    """The protocol with a service's own bounds."""

    class Bounded(BoundedHttp):
        settings = given

    return Bounded
