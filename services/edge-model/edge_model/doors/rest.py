"""The Open Inference Protocol's `…/infer` over REST, as bare ASGI.

It stands before the FastAPI application, whose layers it does not need.
"""

import asyncio
import functools
import hmac
import re
import time
from dataclasses import dataclass, field
from math import ceil

import orjson
import structlog
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edge_model.aside import aside
from edge_model.doors.body import answered, inflated, parsed
from edge_model.inference import Answer, Core, Inference, deadline_of
from edge_model.state import state_of
from trivium.errors import TriviumError, Unauthenticated
from trivium.http import DEADLINE_HEADER
from trivium.metrics import EDGE_REQUESTS
from trivium.telemetry import REQUEST_ID_HEADER, request_id_of
from trivium.tracing import TEMPLATE
from trivium.web import BodyLimit, Guard

log = structlog.get_logger()
LARGE_BODY = 65_536
LARGE_ANSWER = 20_000
WATCH_FROM_MS = 20.0
_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_TEMPLATES = "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"
_DEADLINE = DEADLINE_HEADER.lower().encode()
_LENGTH = b"inference-header-content-length"
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_STATUS = {422: 400, 502: 500}
Headers = dict[bytes, bytes]


@dataclass(slots=True)
class Reply:
    """What goes back."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class CallerLeft(Exception):
    """Nobody waits for the answer any more."""


class RestDoor:
    """Serves `…/infer`."""

    def __init__(self, guard: Guard, service_key: str, max_bytes: int) -> None:
        self._guard = guard
        self._authorization = b"Bearer " + service_key.encode()
        self._max_bytes = max_bytes
        self._limited = BodyLimit(self._serve, max_bytes, as_response)

    def leads(self, path: str) -> bool:
        """Whether a path is this door's."""
        return _PATH.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        await self._limited(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        headers: Headers = dict(scope["headers"])
        request_id = request_id_of(headers.get(_REQUEST_ID, b""))
        try:
            reply = await self._answer(scope, headers, receive, started)
        except CallerLeft:
            _requests("left").inc()
            return
        except TriviumError as error:
            reply = refusal(error)
        except Exception as error:  # noqa: BLE001 - a bug answers 500 and is logged, as on every endpoint
            reply = _bug(error, request_id)
        _requests(reply.status).inc()
        sent = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            (_REQUEST_ID, request_id.encode()),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, started: float) -> Reply:
        path = _PATH.fullmatch(scope["path"])
        assert path
        scope[TEMPLATE] = _TEMPLATES[path[2] is not None]
        request = Request(scope)
        core = state_of(request).core
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._authorization):
            await self._guard(request)
        if scope["method"] != "POST":
            return Reply(
                405, _told(f"{scope['method']} is not allowed, POST is"), headers=[(b"allow", b"POST")]
            )
        core.runner.refuse_if_full()
        told = headers.get(_DEADLINE)
        deadline_ms = None if told is None else deadline_of(told.decode(errors="replace"), DEADLINE_HEADER)
        raw = await _body(receive)
        encoding = headers.get(b"content-encoding", b"")
        asked = await aside(
            lambda: parsed(inflated(raw, encoding, self._max_bytes), headers.get(_LENGTH), path[1], path[2]),
            len(raw) > LARGE_BODY or encoding != b"",
        )
        answer = await _while_heard(core, asked, started, deadline_ms, receive)
        numbers = sum(len(tensor.values) for tensor in answer.outputs)
        body, head = await aside(lambda: answered(asked, answer), numbers > LARGE_ANSWER)
        if head is None:
            return Reply(200, body)
        return Reply(200, body, b"application/octet-stream", [(_LENGTH, str(head).encode())])


async def _while_heard(
    core: Core, asked: Inference, started: float, deadline_ms: float | None, receive: Receive
) -> Answer:
    """The answer; a caller that leaves while it has to wait frees its place."""
    working = core.infer(asked, started, deadline_ms)
    if core.runner.wait_ms < WATCH_FROM_MS:
        return await working
    mine = asyncio.current_task()
    assert mine
    watch = asyncio.ensure_future(_cancel_when_left(receive, mine))
    try:
        return await working
    except asyncio.CancelledError:
        if not watch.done():
            raise
        mine.uncancel()
        raise CallerLeft from None
    finally:
        watch.cancel()


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeft
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _cancel_when_left(receive: Receive, task: "asyncio.Task[None]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def refusal(error: TriviumError) -> Reply:
    """An error in the protocol's shape, `{"error": …}`."""
    reply = Reply(_STATUS.get(error.status, error.status), _told(error.detail))
    if error.retry_after_s is not None:
        reply.headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
    if isinstance(error, Unauthenticated):
        reply.headers.append((b"www-authenticate", b"Bearer"))
    return reply


@functools.cache
def _requests(status: int | str) -> Counter:
    return EDGE_REQUESTS.labels("rest", str(status))


def _bug(error: Exception, request_id: str | None) -> Reply:
    log.error("unexpected_error", exc_info=error, request_id=request_id)
    return Reply(500, _told("internal error, logged under this request id"))


def as_response(request: Request, error: Exception) -> Response:
    """The same for the endpoints that FastAPI serves."""
    if isinstance(error, TriviumError):
        reply = refusal(error)
    elif isinstance(error, HTTPException):
        told = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        reply = Reply(error.status_code, _told(str(error.detail)), headers=told)
    else:
        reply = _bug(error, request.scope.get("state", {}).get("request_id"))
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, reply.content_type.decode())


def _told(detail: str) -> bytes:
    return orjson.dumps({"error": detail})
