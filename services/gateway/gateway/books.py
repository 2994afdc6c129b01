"""The books: every inference is priced, counted, logged and recorded here, whichever door it came through."""

from dataclasses import dataclass, field

import structlog

from trivium.domain.inference import Arm, Attempt, Inference, ServedBy
from trivium.domain.recording import Keeping
from trivium.domain.route import PREFIX
from trivium.llm.prices import Tariff
from trivium.metrics import (
    ATTEMPTS,
    CASCADE_SAVED_USD,
    CASCADES,
    CONFIDENCE,
    FALLBACKS,
    INFERENCE_LATENCY,
    INFERENCES,
    STALE_ANSWERS,
)
from trivium.patterns.steps import price
from trivium.store.recorder import Recorder
from trivium.tracing import Attributes, Span

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Books:
    """Prices, records and counts."""

    tariff: Tariff
    recorder: Recorder
    cascades: "Cascades" = field(default_factory=lambda: Cascades())

    def price(self, feature: str, attempts: list[Attempt]) -> None:
        """Sets what attempts cost."""
        for attempt in attempts:
            price(feature, attempt, self.tariff)

    def enter(self, made: Inference, keeping: Keeping, span: Span) -> None:
        """Records an inference whose attempts are priced, counts it, and tells its span what it was."""
        if span.recording:
            span.set(_told(made))
            if made.status == "left":
                span.fail(made.status)
            elif made.status == "failed":
                span.fail(made.fallback_reason or made.status)
        self.recorder.record(made, keeping)
        self.cascades.note(made)
        _count(made)


def _told(made: Inference) -> Attributes:
    by = made.served_by
    return {
        "trivium.inference_id": made.id,
        "trivium.feature": made.feature,
        "trivium.arm": made.arm.value,
        "trivium.status": made.status,
        "trivium.step": by.step,
        "trivium.pattern": by.pattern,
        "trivium.variant": by.variant,
        "trivium.version": by.version,
        "trivium.model": by.model,
        "trivium.degraded": made.degraded,
        "trivium.fallback_reason": made.fallback_reason,
        "trivium.handed_on_from": made.handed_on_from,
        "trivium.cached": made.cached,
        "trivium.stale_reason": made.answer.stale_reason,
        "trivium.confidence": made.answer.confidence,
        "trivium.cost_usd": made.cost_usd,
        "trivium.deadline_ms": made.deadline_ms,
    }


def _count(made: Inference) -> None:
    by = made.served_by
    outcome = "control" if made.arm is Arm.CONTROL else "degraded" if made.degraded else "ok"
    if made.status != "done":
        outcome = made.status
    labels = (made.feature, by.variant or by.step, by.pattern, outcome)
    INFERENCES.labels(*labels).inc()
    INFERENCE_LATENCY.labels(*labels).observe(made.latency_ms / 1000)
    if by.variant and made.answer.confidence is not None:
        CONFIDENCE.labels(made.feature, by.variant).observe(made.answer.confidence)
    if by.variant and made.answer.stale_reason:
        STALE_ANSWERS.labels(made.feature, by.variant, made.answer.stale_reason).inc()
    for attempt in made.attempts:
        tried = attempt.served_by
        name = tried.variant or tried.step
        ATTEMPTS.labels(made.feature, name, tried.pattern, attempt.target, attempt.outcome).inc()
    for tried, reason in _passed_over(made):
        FALLBACKS.labels(made.feature, tried.variant or tried.step, tried.pattern, reason).inc()
    # Of chats that went well the ledger tells enough: a line costs a tenth of them.
    told = log.debug if outcome == "ok" and made.feature.startswith(PREFIX) else log.info
    told(
        "inference",
        inference_id=made.id,
        feature=made.feature,
        arm=made.arm.value,
        step=by.step,
        degraded=made.degraded,
        reason=made.fallback_reason,
        latency_ms=round(made.latency_ms, 2),
    )


def _passed_over(made: Inference) -> list[tuple[ServedBy, str]]:
    """Each target that did not answer, once, with its last reason; a retry that helped is none."""
    last: dict[str, Attempt] = {}
    for attempt in made.attempts:
        last[attempt.target] = attempt
    return [(tried.served_by, tried.outcome) for tried in last.values() if tried.outcome != "ok"]


class Cascades:
    """What small models hand on by design, and what is saved by what they do not.

    The next step's mean cost so far stands for what each of their answers would have cost there.
    """

    def __init__(self) -> None:
        self._costs: dict[str, tuple[int, float]] = {}

    def note(self, made: Inference) -> None:
        """Counts an inference of a feature that cascades; of others nothing is known."""
        if made.handed_on_from:
            reason = made.attempts[0].outcome
            CASCADES.labels(made.feature, made.handed_on_from, reason).inc()
            if made.cost_usd is not None:
                count, total = self._costs.get(made.feature, (0, 0.0))
                self._costs[made.feature] = count + 1, total + made.cost_usd
        elif made.feature in self._costs and made.served_by.pattern == "edge" and made.status == "done":
            count, total = self._costs[made.feature]
            CASCADE_SAVED_USD.labels(made.feature).inc(total / count)
