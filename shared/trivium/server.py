"""The HTTP server of every service, and how it ends without losing a request."""

import time
from types import FrameType

import uvicorn

LINGER_S = 3.0
"""Longest that kept connections are waited for, after the signal to end."""
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Ends in three steps: tells every caller to close, waits for them, then drains; the exit code is 0.

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
        """Whether the server is to stop listening now."""
        since = self._leaving_since
        if since is not None:
            alone = not self.server_state.connections
            self.should_exit = self.should_exit or alone or time.monotonic() - since > LINGER_S
        return await super().on_tick(counter)
