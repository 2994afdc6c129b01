"""From a question to its answer: arm, chain, price, record. The one way that every door leads to."""

import time
from dataclasses import dataclass, replace

import structlog

from gateway.patterns.api import ApiStep
from gateway.patterns.edge import EdgeStep
from gateway.patterns.precomputed import PrecomputedStep
from trivium.domain.cost import Price, cost_usd
from trivium.domain.fallback import Breakers, ChainResult, Deadline, Step, run_chain, static_step
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, Subject
from trivium.domain.manifest import ApiVariant, EdgeVariant, PrecomputedVariant
from trivium.domain.rollout import Flags, choose_arm, choose_variant
from trivium.edge import EdgeClient
from trivium.errors import BreakerOpen, ConfigurationError, FieldFault, InvalidRequest
from trivium.features import Catalogue, Feature, LoadedVariant
from trivium.llm.prices import vendor_cost_usd
from trivium.llm.provider import Provider
from trivium.metrics import (
    ATTEMPTS,
    COST_USD,
    FALLBACKS,
    FLAG_EVALUATIONS,
    INFERENCE_LATENCY,
    INFERENCES,
    TOKENS,
    UNPRICED,
)
from trivium.store.recorder import Recorder
from trivium.store.results import ResultRepository
from trivium.telemetry import new_id

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backends:
    """What the patterns answer from."""

    providers: dict[str, Provider]
    edge: EdgeClient
    results: ResultRepository
    local_price: Price | None


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
        self._chains = {feature.name: self._chain(feature) for feature in catalogue}

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
            self._price(feature.name, attempt)
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

    def _chain(self, feature: Feature) -> list[Step]:
        steps = [
            step for name in feature.manifest.chain for step in self._steps(feature, feature.variants[name])
        ]
        served = feature.manifest.serve
        if not any(step.served_by.variant == served for step in steps):
            raise ConfigurationError(
                f"{feature.name} serves {served}, but none of its providers is configured "
                f"(there are {', '.join(self._backends.providers)}); set its key, or serve another variant"
            )
        share_s = feature.manifest.deadline_ms / 1000 / len(steps)
        granted = [replace(step, granted_s=min(share_s, step.timeout_s or share_s)) for step in steps]
        return [*granted, static_step(feature.manifest.static)]

    def _steps(self, feature: Feature, variant: LoadedVariant) -> list[Step]:
        """One step a model; models of providers that are not configured are left out."""
        spec, back = variant.spec, self._backends
        timeout_s = spec.timeout_ms / 1000 if spec.timeout_ms else None
        by = ServedBy(variant.name, spec.pattern, variant.name, variant.version)
        if isinstance(spec, EdgeVariant):
            edge = EdgeStep(spec, feature.manifest.output, back.edge)
            return [Step(by, f"edge/{spec.model}", edge, timeout_s=timeout_s)]
        if isinstance(spec, PrecomputedVariant):
            stored = PrecomputedStep(feature.name, variant.version, spec, back.results)
            return [Step(by, "store", stored, timeout_s=timeout_s)]
        return self._api_steps(feature, variant, spec, by, timeout_s)

    def _api_steps(
        self,
        feature: Feature,
        variant: LoadedVariant,
        spec: ApiVariant,
        by: ServedBy,
        timeout_s: float | None,
    ) -> list[Step]:
        steps = []
        for target in spec.models:
            vendor, _, model = target.partition("/")
            provider = self._backends.providers.get(vendor)
            if provider is None:
                log.warning("provider_not_configured", variant=variant.name, model=target)
                continue
            ask = ApiStep(variant, provider, model)
            ask.render(feature.manifest.example.input)  # a prompt that cannot be filled fails here
            steps.append(Step(by, target, ask, retries=spec.retries, timeout_s=timeout_s))
        return steps

    def _price(self, feature: str, attempt: Attempt) -> None:
        """Sets what an attempt cost: nothing without tokens, None where the price is unknown."""
        by, usage = attempt.served_by, attempt.usage
        vendor, _, model = attempt.target.partition("/")
        local = by.pattern != "api" or vendor == "local"
        if usage is None:
            # What a vendor billed for an attempt that told no usage is not known, unless it was not asked.
            attempt.cost_usd = 0.0 if local or attempt.outcome == BreakerOpen.code else None
        else:
            price = self._backends.local_price
            attempt.cost_usd = cost_usd(usage, price) if local else vendor_cost_usd(vendor, model, usage)
            for kind in ("input", "cached_input", "output"):
                TOKENS.labels(feature, by.variant, attempt.target, kind).inc(getattr(usage, kind))
            if attempt.cost_usd is None:
                UNPRICED.labels(feature, by.variant, attempt.target).inc()
            else:
                COST_USD.labels(feature, by.variant, attempt.target).inc(attempt.cost_usd)


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
