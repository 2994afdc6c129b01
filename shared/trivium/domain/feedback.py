"""Feedback: an event about an inference."""

import enum
from dataclasses import dataclass
from typing import Any


class Kind(enum.StrEnum):
    """What happened to the answer."""

    SHOWN = "shown"
    ACCEPTED = "accepted"
    EDITED = "edited"
    DISMISSED = "dismissed"
    THUMBS_UP = "thumbs_up"
    THUMBS_DOWN = "thumbs_down"
    CORRECTION = "correction"


OVERRIDES = frozenset({Kind.EDITED, Kind.DISMISSED, Kind.THUMBS_DOWN, Kind.CORRECTION})
WITH_VALUE = frozenset({Kind.EDITED, Kind.CORRECTION})


@dataclass(frozen=True, slots=True)
class Feedback:
    """One event; `value` is the right output of a correction or an edit. Times are Unix seconds.

    `edit_distance` says how far that is from what was answered, 0 to 1; None until both are known.
    """

    id: str
    inference_id: str
    key_id: str
    idempotency_key: str
    kind: Kind
    value: dict[str, Any] | None
    occurred_at: float
    received_at: float
    edit_distance: float | None = None

    def same_event(self, other: "Feedback") -> bool:
        """Whether a repeated Idempotency-Key really repeats the event."""
        mine = (self.inference_id, self.kind, self.value)
        return mine == (other.inference_id, other.kind, other.value)
