"""What every way to compute has in common."""

from typing import Protocol

from trivium.domain.precompute import Batch, Item
from trivium.errors import ConnectionFailed, Overloaded, RateLimited, StepTimeout, Unavailable
from trivium.store.chunks import Claim

# What a chunk needs is away for now: no fault of the chunk's, so it is not counted against it.
AWAY = (ConnectionFailed, Overloaded, RateLimited, StepTimeout, Unavailable)
AWAY_CODES = frozenset({"breaker_open", *(kind.code for kind in AWAY)})


class Job(Protocol):
    """Computes items of one variant."""

    @property
    def rows(self) -> int:
        """Items between two checkpoints."""
        ...

    async def compute(self, claim: Claim, items: list[Item]) -> Batch:
        """What becomes of each item: a result, or a dead item that says why.

        Raises:
            TriviumError: of the kinds in AWAY, to be tried later as it is.
            Exception: whatever else; the chunk is bisected until the item that causes it is alone.
        """
        ...


class Later(Exception):
    """A chunk waits for somebody else, and is looked at again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds
