"""The HTTP server of every service, and how it ends without losing a request."""

import gc
import resource
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trivium.connections import bounded
from trivium.settings import Settings

LINGER_S = 3.0
"""Longest that kept connections are waited for, after the signal to end."""
DRAIN_S = 10
"""Longest that requests under way are waited for after that."""
MAX_FILES = 65_536
TICKS_PER_SECOND = 10  # uvicorn's
SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Cuts slow connections, and loses no request at its end.

    It ends in three steps: it tells every caller to close, waits for them, then drains; the exit code is 0.
    A caller that keeps its connection may be sending the next request in the moment in which an idle one is
    closed, and would see a reset. So answers say `Connection: close` from the signal on, and new connections
    are taken, until none is left or LINGER_S are over. A second signal ends the waiting.
    """

    _leaving_since: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end."""
        if self._leaving_since is not None or not self.started:
            self.should_exit = True
            return
        self._leaving_since = time.monotonic()
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]

    async def on_tick(self, counter: int) -> bool:
        """Looks at the connections; returns whether the server is to stop listening now."""
        if counter % TICKS_PER_SECOND == 0:
            for connection in tuple(self.server_state.connections):
                connection.look()  # type: ignore[union-attr]  # all are ours
        since = self._leaving_since
        if since is not None:
            alone = not self.server_state.connections
            self.should_exit = self.should_exit or alone or time.monotonic() - since > LINGER_S
        return await super().on_tick(counter)


class Started:
    """Tells a start that fails by an error of ours in its own words; tidies up after one that succeeds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""

        async def plain(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                kind, _, detail = message["message"].strip().splitlines()[-1].partition(": ")
                if kind.startswith("trivium.errors."):
                    message["message"] = detail
            if message["type"] == "lifespan.startup.complete":
                _collect_less_often()
            await send(message)

        await self.app(scope, receive, plain if scope["type"] == "lifespan" else send)


def serve(app: ASGIApp, settings: Settings, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    _allow_files()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=port,
        http=bounded(settings),
        ws="none",
        headers=SECURITY_HEADERS,
        log_config=None,
        access_log=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        proxy_headers=False,
    )
    Server(config).run()


def _collect_less_often() -> None:
    """What was made at the start stays: to look through it for garbage again and again costs tens of ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()  # the entry points start without


def _allow_files() -> None:
    """As many open connections as the machine allows: the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
