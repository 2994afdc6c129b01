"""What becomes of each request, at 18 bytes a request."""

from array import array

from trivium.load.connection import BROKEN

PENDING = 0
TIMEOUT = -1
CONNECTION = BROKEN
NO_CONNECTION = -3
DEGRADED = -4
UNSENT = -5


class Samples:
    """What became of each request: an HTTP status or one of the negative codes, and milliseconds.

    `latency_ms` runs from the intended send to the end of the answer, `lateness_ms` from the
    intended send to the moment that the generator acted.
    """

    def __init__(self, count: int) -> None:
        self.status = array("h", bytes(2 * count))
        self.latency_ms = array("d", bytes(8 * count))
        self.lateness_ms = array("d", bytes(8 * count))

    def cut(self, count: int) -> None:
        """Forgets all but the first `count`, which were sent."""
        for column in (self.status, self.latency_ms, self.lateness_ms):
            del column[count:]
