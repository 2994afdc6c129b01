"""What every provider can do, whatever its wire."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trivium.domain.inference import Usage
from trivium.errors import StepError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What is asked of a model; with `schema` the answer is JSON that decoding holds to it."""

    model: str
    messages: list[Message]
    schema: dict[str, Any] | None
    temperature: float
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What it answered. `model` is the provider's own name for what ran."""

    text: str
    model: str
    usage: Usage | None


class Provider(Protocol):
    """A way to reach models."""

    name: str

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """One answer, complete.

        Raises:
            StepError: of the kind that the chain and the breaker go by.
        """
        ...


def with_usage(error: StepError, usage: Usage | None) -> StepError:
    """Notes on an error what the failed call was billed for."""
    error.usage = usage
    return error
