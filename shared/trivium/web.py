"""What the HTTP services have in common: errors on the wire, keys, limits, the server."""

import asyncio
import hmac
import re
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from importlib.metadata import version
from math import ceil
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trivium.errors import FieldFault, InvalidRequest, MalformedBody, TooLarge, TriviumError, Unauthenticated
from trivium.metrics import BUILD_INFO
from trivium.nesting import MAX_DEPTH, is_too_deep
from trivium.server import Started, serve
from trivium.settings import Settings
from trivium.telemetry import RequestContext, configure_logging, instrument
from trivium.tracing.asgi import traced
from trivium.tracing.starting import start as start_tracing

log = structlog.get_logger()
PROBLEM_JSON = "application/problem+json"
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
DRAIN_S = 2.0
SWITCH_S = 0.0005
DRAIN_FACTOR = 16  # bodies up to so many times the limit are read before they are refused
Guard = Callable[[Request], Awaitable[None]]


def problem(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: tuple[FieldFault, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """An RFC 9457 answer with the stable `code` and the request's id."""
    body: dict[str, Any] = {
        "type": f"urn:trivium:error:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request.scope.get("state", {}).get("request_id"),
    }
    if errors:
        body["errors"] = [
            {"field": e.field, "message": e.message, "value": _shortened(e.value)} for e in errors
        ]
    return Response(orjson.dumps(body, default=str), status, headers, PROBLEM_JSON)


def answer_errors(app: FastAPI) -> None:
    """Turns every error of a service into its wire shape; none leaks a trace."""

    @app.exception_handler(TriviumError)
    async def ours(request: Request, error: TriviumError) -> Response:
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = 'Bearer, Basic realm="trivium"'
        detail = error.detail
        if error.status == 500:
            log.error("request_failed", code=error.code, detail=detail)
            detail = "The service is misconfigured; its log says how, under this request id."
        return problem(
            request, error.status, error.code, error.title, detail, errors=error.errors, headers=headers
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = error.errors()
        malformed = next((f for f in faults if f["type"] == "json_invalid"), None)
        if malformed:
            where = f"at character {malformed['loc'][-1]}: {malformed['ctx']['error']}"
            return await ours(request, MalformedBody(f"The body is not JSON {where}"))
        errors = tuple(
            FieldFault(".".join(map(str, f["loc"][1:])) or "body", f["msg"], f.get("input")) for f in faults
        )
        detail = "; ".join(f"{e.field}: {e.message}" for e in errors)
        return await ours(request, InvalidRequest(detail, errors=errors))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem(
            request, error.status_code, code, str(error.detail), detail, headers=dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # Outside the middleware that binds it, so the id is named here.
        request_id = request.scope.get("state", {}).get("request_id")
        log.error("unexpected_error", exc_info=error, request_id=request_id)
        return problem(request, 500, "internal", "Internal error", "Logged under this request id.")


def bearer(request: Request) -> str:
    """The key of a request: a bearer token, or the password of HTTP Basic (for browsers).

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return b64decode(credentials, validate=True).decode().partition(":")[2]
        except ValueError as error:
            raise Unauthenticated("The Basic credentials are not base64 of user:key") from error
    raise Unauthenticated("Send the header 'Authorization: Bearer <key>'")


def service_key_guard(settings: Settings) -> Guard:
    """A dependency that admits callers with the service key."""
    expected = settings.service_key.get_secret_value().encode()

    async def guard(request: Request) -> None:
        if not hmac.compare_digest(bearer(request).encode(), expected):
            raise Unauthenticated("This service takes the service key (TRIVIUM_SERVICE_KEY)")

    return guard


class StrictRequest(Request):
    """A request whose JSON has no NaN, no lone surrogates and no nesting beyond reason."""

    async def json(self) -> Any:
        """The body; raises JSONDecodeError."""
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """A route that reads its body strictly, and refuses null characters: PostgreSQL cannot store them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given a strict request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            own = StrictRequest(request.scope, request.receive)
            try:
                raw = await own.body()
            except ClientDisconnect:
                return Response(status_code=400)  # nobody hears it
            refuse_unstorable(raw)
            return await handle(own)

        return strict


def refuse_unstorable(raw: bytes) -> None:
    """Raises InvalidRequest for null characters, MalformedBody for nesting beyond reason."""
    if is_too_deep(raw):
        raise MalformedBody(f"The body is nested more than {MAX_DEPTH} levels deep")
    if b"\\u0000" not in raw:
        return
    try:
        fields = list(_with_null(orjson.loads(raw), "body"))
    except orjson.JSONDecodeError:
        return  # told by who parses it
    faults = tuple(FieldFault(field, "holds a null character (\\u0000)") for field in fields)
    if faults:
        raise InvalidRequest("; ".join(f"{f.field} {f.message}" for f in faults), errors=faults)


def _with_null(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str) and "\0" in value:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _with_null(key, f"{path} (a key)")
            yield from _with_null(item, f"{path}.{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _with_null(item, f"{path}.{position}")


def _problem_too_large(request: Request, error: TooLarge) -> Response:
    return problem(request, error.status, error.code, error.title, error.detail)


class BodyLimit:
    """Refuses bodies over a size, announced or streamed, with 413.

    `refuse` gives the answer its shape; of a streamed body TooLarge is raised where it is read. Paths that
    match `streamed` bound their bodies themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        refuse: Callable[[Request, TooLarge], Response] = _problem_too_large,
        streamed: re.Pattern[str] | None = None,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.refuse = refuse
        self.streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or (self.streamed and self.streamed.fullmatch(scope["path"])):
            await self.app(scope, receive, send)
            return
        announced = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            if int(announced) <= DRAIN_FACTOR * self.max_bytes:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_S):
                        await _drain(receive)
            await self.refuse(Request(scope), self._too_large())(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, limited, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is over {self.max_bytes} bytes")


async def _drain(receive: Receive) -> None:
    """Reads a body and forgets it: a caller that is still sending would not see the answer."""
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def add_middleware(
    app: FastAPI,
    settings: Settings,
    streamed: re.Pattern[str] | None = None,
    inner: Middleware | None = None,
) -> None:
    """Error answers, metrics, the body limit and the request id, each seeing what it must.

    `inner` stands behind the request id, and before the others.
    """
    answer_errors(app)
    instrument(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, streamed=streamed)
    if inner:
        app.add_middleware(inner.cls, *inner.args, **inner.kwargs)
    app.add_middleware(RequestContext)


def add_metrics(app: FastAPI, guard: Any) -> None:
    """`/metrics`: everything this process counts, in Prometheus's text format."""
    BUILD_INFO.labels(version("trivium")).set(1)

    @app.get("/metrics", include_in_schema=False, dependencies=[guard])
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def run_server(factory: Callable[[], FastAPI], settings: Settings, service: str) -> None:
    """Serves until SIGTERM or SIGINT, then drains what is under way."""
    configure_logging(settings, service)
    start_tracing(service)
    # SQLite's thread lets go of the interpreter for every row, and would wait this long to have it back.
    sys.setswitchinterval(SWITCH_S)
    serve(traced(Started(factory())), settings, settings.port_of(service))


def _shortened(value: Any) -> Any:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return f"{text[:200]}…" if len(text) > 200 else value
