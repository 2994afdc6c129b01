"""The core that every door leads to: tensors in, tensors out, inside a deadline."""

import time
from dataclasses import dataclass, field
from typing import Any

from edge_model.aside import aside
from edge_model.batching import Runner
from edge_model.inputs import Limits, characters_in, rows_of
from edge_model.outputs import Asked, check_names, chosen, top_k_of
from edge_model.registry import Registry
from edge_model.tensors import Tensor
from trivium.errors import InvalidRequest

DEFAULT_DEADLINE_MS = 10_000.0
MAX_DEADLINE_MS = 600_000.0
INLINE_CHARACTERS = 2_000
INLINE_NUMBERS = 20_000


@dataclass(slots=True)
class Inference:
    """A request, whichever door it came by."""

    model: str
    version: str | None
    inputs: list[Tensor]
    id: str | None = None
    outputs: list[Asked] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """What is answered."""

    model: str
    version: str
    id: str | None
    outputs: list[Tensor]


class Core:
    """Answers requests."""

    def __init__(self, registry: Registry, runner: Runner, limits: Limits) -> None:
        self.registry = registry
        self.runner = runner
        self.limits = limits

    async def infer(self, asked: Inference, started: float, deadline_ms: float | None = None) -> Answer:
        """Runs a model.

        Args:
            asked: the request.
            started: when it arrived, on `time.monotonic()`'s clock.
            deadline_ms: what the door was told, from the arrival on; a nearer one among the parameters
                counts.

        Raises:
            NotFound: no such model or version. InvalidRequest: something in it is wrong.
            TooLarge: more than the limits allow. Overloaded, StepTimeout: refused.
        """
        deadline = started + _nearest_ms(asked.parameters, deadline_ms) / 1000
        check_names(asked.outputs)
        with self.registry.lease(asked.model, asked.version) as model:
            top_k_of(asked.parameters, model.card)
            rows = await aside(
                lambda: rows_of(asked.inputs, asked.parameters, model, self.limits),
                characters_in(asked.inputs) > INLINE_CHARACTERS,
            )
            outputs = await self.runner.run(model, rows, deadline)
            tensors = await aside(
                lambda: chosen(asked.outputs, asked.parameters, model.card, rows, outputs),
                len(rows) * len(model.card.labels) > INLINE_NUMBERS,
            )
        model.metrics.latency.observe(time.monotonic() - started)
        return Answer(model.card.name, model.card.version, asked.id, tensors)


def deadline_of(told: Any, where: str, milliseconds: float = 1.0) -> float:
    """Milliseconds until a deadline, told as a number of `milliseconds` each.

    Raises:
        InvalidRequest: it is no number, or not from 0 to MAX_DEADLINE_MS.
    """
    try:
        found = float(told) * milliseconds
    except (TypeError, ValueError):
        found = -1.0
    if isinstance(told, bool) or not 0 <= found <= MAX_DEADLINE_MS:
        most = MAX_DEADLINE_MS / milliseconds
        raise InvalidRequest(f"{where}: {told!r}; it must be a number from 0 to {most:.0f}")
    return found


def _nearest_ms(parameters: dict[str, Any], deadline_ms: float | None) -> float:
    """The nearest deadline: the door's, `deadline_ms`, or Triton's `timeout` (µs; 0 stands for none)."""
    nearest = DEFAULT_DEADLINE_MS if deadline_ms is None else deadline_ms
    if "deadline_ms" in parameters:
        nearest = min(nearest, deadline_of(parameters["deadline_ms"], "parameters.deadline_ms"))
    if parameters.get("timeout"):
        nearest = min(nearest, deadline_of(parameters["timeout"], "parameters.timeout", 0.001))
    return nearest
