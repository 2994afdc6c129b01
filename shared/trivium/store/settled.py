"""Which answers came only after what their callers saw was a placeholder."""

from sqlalchemy import ColumnElement, exists, select

from trivium.store.tables import attempt, inference


def settled_late() -> ColumnElement[bool]:
    """Of the inference of the query: its stored result came later, for no attempt at one had succeeded."""
    tried = select(attempt.c.number).where(
        attempt.c.inference_id == inference.c.id,
        attempt.c.pattern == "precomputed",
        attempt.c.outcome == "ok",
    )
    return (inference.c.pattern == "precomputed") & ~exists(tried.correlate(inference))
