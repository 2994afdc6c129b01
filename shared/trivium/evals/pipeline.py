"""One question through the real chain of one variant; what it does not answer itself is a failure."""

import sys
import time
from dataclasses import dataclass, field

from trivium.domain.breaker import Breaker, Breakers
from trivium.domain.fallback import Deadline, drawn, run_chain, static_step
from trivium.domain.inference import Attempt, Question
from trivium.domain.variants import EdgeVariant
from trivium.errors import AccessDenied, ConfigurationError, ConnectionFailed, NotFound, RequestRefused
from trivium.evals.cases import Answered, Asked
from trivium.features import Feature
from trivium.patterns.steps import Backends, FeatureStep, alone, price, steps_of

UNASKABLE = frozenset({ConnectionFailed.code, RequestRefused.code, AccessDenied.code})
"""Of an example that is known to be right, these are the fault of whoever asks."""


class NotAnswered(Exception):
    """The variant did not answer; a degraded answer is none. What was tried took its time, and its money."""

    def __init__(self, code: str, detail: str | None, latency_ms: float, cost_usd: float | None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.latency_ms = latency_ms
        self.cost_usd = cost_usd


@dataclass(slots=True)
class Pipeline:
    """A variant's steps under the feature's deadline, with its schema's check and repair; nothing is kept."""

    feature: Feature
    variant: str
    backends: Backends
    steps: list[FeatureStep] = field(init=False)
    breakers: Breakers = field(default_factory=lambda: Breakers(_never_opens))

    def __post_init__(self) -> None:
        if self.variant not in self.feature.variants:
            known = ", ".join(self.feature.variants)
            raise NotFound(f"{self.feature.name} has no variant {self.variant!r}; there are {known}")
        self.steps = self._steps()

    async def answer(self, asked: Asked) -> Answered:
        """Answers one question.

        Raises:
            NotAnswered: every step failed or abstained, or another variant answered that should not have.
        """
        started = time.monotonic()
        attempts: list[Attempt] = []
        result = await run_chain(
            drawn(self.steps),
            Question(asked.input, asked.entity_key),
            Deadline.after_ms(self.feature.manifest.deadline_ms),
            self.breakers,
            self.feature.check_output,
            attempts=attempts,
        )
        latency_ms = (time.monotonic() - started) * 1000
        for attempt in attempts:
            price(self.feature.name, attempt, self.backends.tariff)
        costs = [attempt.cost_usd for attempt in attempts]
        cost = None if None in costs else sum(one for one in costs if one)
        if result.fallback_reason is not None:
            detail = next((a.detail for a in attempts if a.outcome == result.fallback_reason), None)
            raise NotAnswered(result.fallback_reason, detail, latency_ms, cost)
        answer = result.answer
        return Answered(answer.output, answer.confidence, answer.model, latency_ms, cost)

    async def probe(self) -> None:
        """Asks the manifest's example; raises ConfigurationError if who should answer is not there for us."""
        example = self.feature.manifest.example
        try:
            await self.answer(Asked(example.input, example.entity_key))
        except NotAnswered as error:
            if error.code in UNASKABLE:
                raise ConfigurationError(
                    f"{self.feature.name} {self.variant}: {error}. An evaluation needs what the variant "
                    "answers from: start the platform with `make run`, or name its address and key"
                ) from error

    def _steps(self) -> list[FeatureStep]:
        spec = self.feature.variants[self.variant].spec
        chain = self.feature.manifest.chain
        if not (isinstance(spec, EdgeVariant) and spec.cascade and self.variant in chain):
            return alone(self.feature, self.variant, self.backends)
        # What a cascade hands on is for the next step by design, and part of its answers.
        names = chain[chain.index(self.variant) :]
        steps = [step for name in names for step in steps_of(self.feature, name, self.backends)]
        return [*steps, static_step(self.feature.manifest.static)]


def _never_opens(target: str) -> Breaker:
    """Each case is judged for itself: one that failed must not answer for those after it."""
    return Breaker(target, min_samples=sys.maxsize)
