"""Which arm a subject is in, which steps answer it, and the stages of a rollout."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from trivium.domain.inference import Arm

Step = TypeVar("Step")


class Flags(Protocol):
    """Says whether a flag is on for a subject."""

    def is_enabled(self, flag: str, subject_id: str, properties: dict[str, str]) -> bool:
        """False for a flag that is not known."""
        ...


def choose_arm(enabled: bool) -> Arm:
    """Treatment if the rollout's flag is on for the subject."""
    return Arm.TREATMENT if enabled else Arm.CONTROL


def choose_variant(arm: Arm, chain: Sequence[Step]) -> Sequence[Step]:
    """The steps of the arm: the whole chain, or for control its last step, the non-AI version."""
    return chain if arm is Arm.TREATMENT else chain[-1:]


class Stage(enum.StrEnum):
    """How far a feature has come; the share of the subjects that get the AI follows from it."""

    STAGING = "staging"
    LIMITED = "limited"
    EXPAND_25 = "expand-25"
    EXPAND_50 = "expand-50"
    GA = "ga"

    @property
    def next(self) -> "Stage | None":
        """The stage after this; None after `ga`."""
        stages = list(Stage)
        place = stages.index(self) + 1
        return stages[place] if place < len(stages) else None

    def before(self, other: "Stage") -> bool:
        """Whether fewer get the AI than in the other."""
        stages = list(Stage)
        return stages.index(self) < stages.index(other)

    @property
    def running(self) -> bool:
        """Whether a treatment arm stands beside a control arm, so that they can be compared."""
        return self not in (Stage.STAGING, Stage.GA)

    def percent(self, limited: int) -> int:
        """The percentage of the subjects that get the AI; `limited` is that of the stage of this name."""
        return {Stage.STAGING: 0, Stage.LIMITED: limited, Stage.EXPAND_25: 25, Stage.EXPAND_50: 50}.get(
            self, 100
        )


Action = Literal["advance", "hold", "roll_back"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What moved a feature, or kept it where it is. `figures` are those that it was made from."""

    id: str
    feature: str
    action: Action
    from_stage: Stage
    to_stage: Stage
    variant: str
    version: str
    decided_by: str
    reason: str
    created_at: float
    overridden: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
