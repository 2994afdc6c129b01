"""What HTTP clients and services share."""

import math
import time
from email.utils import parsedate_to_datetime

DEADLINE_HEADER = "X-Deadline-Ms"
"""Milliseconds that a call has left."""


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a `Retry-After`, a number or a date (RFC 9110, 10.2.3); nonsense counts as absent."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
