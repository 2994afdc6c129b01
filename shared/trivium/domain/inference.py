"""An inference, the attempts within it, and what a step gives back."""

import enum
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from trivium.domain.manifest import Pattern

StaleReason = Literal["input", "variant", "age"]
GENERATING_S = 60.0
"""Within it the worker has computed an entity whose answer was a placeholder, or will not."""


class Arm(enum.StrEnum):
    """What the subject gets: the AI, or the non-AI version."""

    TREATMENT = "treatment"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Subject:
    """The end user an answer is for; `id` is the stickiness key of a rollout."""

    id: str
    properties: dict[str, str] = field(default_factory=dict)


class Listener(Protocol):
    """Hears an answer while it is made, before it is checked."""

    def begins(self, target: str) -> None:
        """A target is asked; what another said before does not count."""
        ...

    def says(self, text: str) -> None:
        """A piece of the model's own text."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What a feature is asked."""

    input: dict[str, Any]
    entity_key: str | None = None
    listener: Listener | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; `cached_input` and `cache_write` are part of `input`, `reasoning` of `output`."""

    input: int
    output: int
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What a step answers; `usage` is set by steps that buy tokens."""

    output: dict[str, Any]
    confidence: float | None = None
    model: str | None = None
    usage: Usage | None = None
    stale: bool = False
    stale_reason: StaleReason | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServedBy:
    """Who answered. `variant` and `version` are None for the static step."""

    step: str
    pattern: Pattern
    variant: str | None = None
    version: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Attempt:
    """One try of one step; `outcome` is "ok" or the code of the failure."""

    served_by: ServedBy
    target: str
    outcome: str
    latency_ms: float
    detail: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


@dataclass(slots=True)
class Inference:
    """One answer to one request."""

    id: str
    feature: str
    arm: Arm
    subject_id: str
    key_id: str
    question: Question
    answer: StepAnswer
    served_by: ServedBy
    degraded: bool
    fallback_reason: str | None
    attempts: list[Attempt]
    deadline_ms: int
    latency_ms: float
    created_at: float
    status: Literal["done", "generating", "failed", "left"] = "done"
    """generating: the answer is a placeholder until the worker has computed the entity's result; failed: a
    route's targets could not answer; left: the caller went away before the answer was whole."""
    cached: bool = False
    handed_on_from: str | None = None
    """The variant that abstained, where that is by design and no degradation."""

    @property
    def cost_usd(self) -> float | None:
        """The attempts' cost; None as soon as the price of one is unknown."""
        costs = [attempt.cost_usd for attempt in self.attempts]
        return None if None in costs else float(sum(cost for cost in costs if cost))

    @property
    def usage(self) -> Usage | None:
        """Tokens of all attempts, failed ones included; None if none were bought."""
        spent = [attempt.usage for attempt in self.attempts if attempt.usage]
        if not spent:
            return None
        return Usage(
            sum(u.input for u in spent),
            sum(u.output for u in spent),
            sum(u.cached_input for u in spent),
            sum(u.cache_write for u in spent),
            sum(u.reasoning for u in spent),
        )
