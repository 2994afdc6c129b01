"""What HTTP clients and services share."""

DEADLINE_HEADER = "X-Deadline-Ms"
"""Milliseconds that a call to the edge model has left."""


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a `Retry-After`; a date or nonsense counts as absent."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
