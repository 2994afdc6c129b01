"""Which arm a subject is in, and which steps answer it."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

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
