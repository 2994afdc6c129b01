"""What every vendor's batch API can do: many requests at once, answered within a day at half the price."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from trivium.errors import ProviderError, StepError
from trivium.llm.provider import Chat, Completion

BATCH_PRICE_SHARE = 0.5
"""Of the price of a single call, by the batch pages of OpenAI and Anthropic: "50%" there and there."""

EndReason = Literal["completed", "expired", "cancelled", "failed"]


class NotRun(ProviderError):
    """The batch ended before this item ran; it can be asked again by itself."""

    title = "Not run"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch. `custom_id`: 1 to 64 of a-z, A-Z, 0-9, _ and -, unique in its batch."""

    custom_id: str
    request: Chat


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is.

    `done` counts the items that were answered, `failed` those that ended without an answer; some
    vendors count only at the end. `reason` is set once it has ended; "failed" is a batch of which
    nothing ran, and `detail` says why.
    """

    ended: bool
    reason: EndReason | None
    done: int
    failed: int
    total: int
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of one item: a completion or an error, never both."""

    custom_id: str
    completion: Completion | None
    error: StepError | None


class BatchProvider(Protocol):
    """A vendor's batch API.

    All methods raise StepErrors of the kinds that Provider raises; RequestRefused for a batch that
    the vendor does not know.
    """

    name: str

    async def submit(self, items: list[BatchItem], tag: str) -> str:
        """Hands the items in and returns the vendor's id of the batch.

        After an error that leaves open whether the vendor took them, `find` may tell.
        """
        ...

    async def find(self, tag: str) -> str | None:
        """The id of the newest batch with this tag; None if there is none, or if the vendor keeps no tags."""
        ...

    async def poll(self, batch_id: str) -> BatchStatus:
        """How far it is."""
        ...

    def results(self, batch_id: str) -> AsyncIterator[BatchOutcome]:
        """The outcomes of a batch that has ended, in any order, each item once, as they arrive.

        An item that the vendor says nothing of is absent.

        Raises:
            ConnectionFailed: the stream broke; what was yielded until then is whole and holds.
            ProviderError: the batch has not ended.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """Has it end soon; items that ran until then have their outcomes. One that has ended stays so."""
        ...
