"""From a question to its answer: arm, chain, price, record. The one way that every door leads to."""

import time

import structlog

from trivium.domain.fallback import Breakers, ChainResult, Deadline, run_chain
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, Subject
from trivium.domain.manifest import PrecomputedVariant
from trivium.domain.rollout import Flags, choose_arm, choose_variant
from trivium.errors import FieldFault, InvalidRequest
from trivium.features import Catalogue
from trivium.metrics import (
    ATTEMPTS,
    FALLBACKS,
    FLAG_EVALUATIONS,
    INFERENCE_LATENCY,
    INFERENCES,
)
from trivium.patterns.steps import Backends, chain_of, price
from trivium.store.recorder import Recorder
from trivium.telemetry import new_id

log = structlog.get_logger()


class Serving:
    """Answers questions about the features of a catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        backends: Backends,
        flags: Flags,
        breakers: Breakers,
        recorder: Recorder,
    ) -> None:
        self.catalogue = catalogue
        self._backends = backends
        self._flags = flags
        self._breakers = breakers
        self._recorder = recorder
        self._chains = {feature.name: chain_of(feature, backends) for feature in catalogue}

    async def serve(
        self,
        feature_name: str,
        question: Question,
        subject: Subject,
        key_id: str,
        deadline_ms: int | None = None,
    ) -> Inference:
        """Answers inside the deadline, from the first step of the arm's chain that can.

        Raises:
            NotFound: there is no such feature.
            InvalidInput: the input does not match its schema.
        """
        started = time.monotonic()
        feature = self.catalogue.get(feature_name)
        manifest = feature.manifest
        feature.check_input(question.input)
        if isinstance(manifest.variants[manifest.serve], PrecomputedVariant) and not question.entity_key:
            fault = FieldFault("entity_key", "is missing: this feature's results are per entity")
            raise InvalidRequest(f"entity_key {fault.message}", errors=(fault,))
        limit_ms = deadline_ms or manifest.deadline_ms
        arm = self._arm(manifest.rollout.flag, subject)
        result = await run_chain(
            choose_variant(arm, self._chains[feature.name]),
            question,
            Deadline.after_ms(limit_ms),
            self._breakers,
            feature.check_output,
        )
        for attempt in result.attempts:
            price(feature.name, attempt, self._backends.local_price)
        made = Inference(
            id=new_id(),
            feature=feature.name,
            arm=arm,
            subject_id=subject.id,
            key_id=key_id,
            question=question,
            answer=result.answer,
            served_by=_named(result),
            degraded=result.fallback_reason is not None,
            fallback_reason=result.fallback_reason,
            attempts=result.attempts,
            deadline_ms=limit_ms,
            latency_ms=(time.monotonic() - started) * 1000,
            created_at=time.time(),
        )
        self._recorder.record(made)
        _count(made)
        return made

    def _arm(self, flag: str, subject: Subject) -> Arm:
        arm = choose_arm(self._flags.is_enabled(flag, subject.id, subject.properties))
        FLAG_EVALUATIONS.labels(flag, arm.value).inc()
        return arm


def _named(result: ChainResult) -> ServedBy:
    """Who answered, with the model that did."""
    by = result.served_by
    model = result.answer.model or (result.attempts[-1].target if by.pattern == "api" else None)
    return ServedBy(by.step, by.pattern, by.variant, by.version, model)


def _count(made: Inference) -> None:
    by = made.served_by
    outcome = "control" if made.arm is Arm.CONTROL else "degraded" if made.degraded else "ok"
    labels = (made.feature, by.variant or by.step, by.pattern, outcome)
    INFERENCES.labels(*labels).inc()
    INFERENCE_LATENCY.labels(*labels).observe(made.latency_ms / 1000)
    for attempt in made.attempts:
        tried = attempt.served_by
        name = tried.variant or tried.step
        ATTEMPTS.labels(made.feature, name, tried.pattern, attempt.target, attempt.outcome).inc()
    for tried, reason in _passed_over(made):
        FALLBACKS.labels(made.feature, tried.variant or tried.step, tried.pattern, reason).inc()
    log.info(
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
