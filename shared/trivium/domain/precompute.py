"""Pre-computation: what a chunk makes, and when a stored result no longer holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trivium.domain.inference import StaleReason

# The phases of a run, in their order. Every run imports and computes; over neighbours it embeds what is new
# and selects whose neighbours that may change.
IMPORT, EMBED, SELECT, COMPUTE = PHASES = ("import", "embed", "select", "compute")

RunState = Literal["queued", "running", "done", "done_with_errors", "failed", "cancelled"]
ENDED = ("done", "done_with_errors", "failed", "cancelled")
# "fresh" and "stale" results are served, one that is "expired" is too old to be. Of a "missing" one there is
# nothing yet, and of an "unknown" entity nothing to compute it from.
Standing = Literal["fresh", "stale", "expired", "missing", "unknown"]
RefreshReason = Literal["input", "variant", "age", "missing", "correction"]


@dataclass(frozen=True, slots=True)
class Item:
    """One entity of a chunk, as its archive has it."""

    entity_key: str
    record: dict[str, Any]
    input_hash: str


@dataclass(frozen=True, slots=True)
class Result:
    """What was computed for an item."""

    item: Item
    output: dict[str, Any]
    confidence: float | None = None
    model: str | None = None
    cost_usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Dead:
    """An item that could not be computed; `abstained` if the model knew that it cannot, which is no error."""

    entity_key: str
    input_hash: str | None
    code: str
    detail: str
    abstained: bool = False
    cost_usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Embedding:
    """An item's vector: float32, little-endian, of unit length."""

    entity_key: str
    input_hash: str
    vector: bytes


@dataclass(slots=True)
class Batch:
    """What became of some items of a chunk; written, with how far it got, in one transaction."""

    results: list[Result] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    gone: Sequence[str] = ()
    unchanged: int = 0
    left: list[str] = field(default_factory=list)
    """Entities that are to be tried one by one, in a chunk of their own."""
    spent_usd: float = 0.0
    """On those that are left."""

    @property
    def failed(self) -> int:
        """Items that ended in an error."""
        return sum(not item.abstained for item in self.dead)

    @property
    def cost_usd(self) -> float:
        """What is known to have been spent."""
        spent = [made.cost_usd for made in self.results] + [made.cost_usd for made in self.dead]
        return self.spent_usd + sum(cost for cost in spent if cost)


@dataclass(frozen=True, slots=True)
class Judged:
    """How a stored result stands now."""

    standing: Standing
    stale_reason: StaleReason | None = None
    age_s: float | None = None

    @property
    def served(self) -> bool:
        """Whether it may be answered with."""
        return self.standing in ("fresh", "stale")

    @property
    def refresh(self) -> RefreshReason | None:
        """Why it should be computed anew."""
        match self.standing:
            case "stale":
                return self.stale_reason
            case "expired":
                return "age"
            case "missing":
                return "missing"
            case _:
                return None


def stale_reason(
    *,
    stored_hash: str,
    current_hash: str | None,
    stored_version: str,
    current_version: str,
    age_s: float,
    max_age_s: float,
) -> StaleReason | None:
    """Why a result no longer holds, the gravest reason first; None if it does.

    Args:
        stored_hash: of the input that it was computed from.
        current_hash: of the entity's input as it is now; None if there is no such entity any more.
        stored_version: of the variant that computed it.
        current_version: of the variant as the manifest has it.
        age_s: seconds since it was computed.
        max_age_s: from when it counts as stale.
    """
    if stored_hash != current_hash:
        return "input"
    if stored_version != current_version:
        return "variant"
    return "age" if age_s > max_age_s else None
