"""A span for every HTTP request, by the semantic conventions of HTTP."""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trivium import tracing
from trivium.tracing import TEMPLATE, Attributes, Span
from trivium.tracing.starting import stop

_UNTRACED = ("/health/", "/metrics", "/v2/health/")
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
_REQUEST_ID = b"x-request-id"
_HIDDEN = "entity_key"
"""The part of a path that says whom an answer is about."""
LEFT = "left"


def traced(app: ASGIApp) -> ASGIApp:
    """The application with a span around each request; where nothing is traced, as it is."""
    return Traced(app) if tracing.active() else app


class Traced:
    """Stands outside of everything else, so that a span has all of a request; ends the traces at the end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _ending_traces(send))
        elif scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
        else:
            carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            with tracing.arrived(_method(scope), carrier, _known_at_once(scope)) as span:
                await self._serve(span, scope, receive, send)

    async def _serve(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        status, whole, left = 0, False, False
        told: dict[str, Any] = {}

        async def hearing() -> Message:
            nonlocal left
            message = await receive()
            left = left or (message["type"] == "http.disconnect" and not whole)
            return message

        async def noting(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = (value.decode() for name, value in message.get("headers", ()) if name == _REQUEST_ID)
                told["trivium.request_id"] = next(ids, None)
            elif not message.get("more_body"):
                whole = True
            await send(message)

        try:
            await self._app(scope, hearing, noting)
        finally:
            if left:
                span.fail(LEFT)
            elif status >= 500:
                span.fail(str(status))
            if span.recording:
                route = _route(scope)
                if route:
                    span.rename(f"{_method(scope)} {route}")
                span.set({**told, "http.route": route, "url.path": _path(scope)})
                span.set({"http.response.status_code": status or None})


def _ending_traces(send: Send) -> Send:
    async def ending(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await stop()
        await send(message)

    return ending


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "HTTP"


def _known_at_once(scope: Scope) -> Attributes:
    method, server = scope["method"], scope.get("server") or (None, None)
    known = method in _METHODS
    return {
        "http.request.method": method if known else "_OTHER",
        "http.request.method_original": None if known else method[:32],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "server.address": server[0],
        "server.port": server[1],
    }


def _route(scope: Scope) -> str | None:
    """The template of the path that served it, if one did."""
    template: str | None = scope.get(TEMPLATE) or getattr(scope.get("route"), "path", None)
    return template


def _path(scope: Scope) -> str:
    """The path, without its query; and without whom it is about."""
    path: str = scope["path"]
    hidden = (scope.get("path_params") or {}).get(_HIDDEN)
    return path.removesuffix(hidden) + f"{{{_HIDDEN}}}" if hidden and path.endswith(hidden) else path
