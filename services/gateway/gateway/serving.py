"""From a question to its answer: arm, chain, price, record. The one way that every door leads to."""

import time

import structlog

from trivium.domain.fallback import Breakers, ChainResult, Deadline, run_chain
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, Subject
from trivium.domain.manifest import PrecomputedVariant
from trivium.domain.precompute import Judged, RefreshReason
from trivium.domain.rollout import Flags, choose_arm, choose_variant
from trivium.errors import FieldFault, InvalidRequest, NotFound, SchemaViolation
from trivium.features import Catalogue, Feature, LoadedVariant
from trivium.metrics import (
    ATTEMPTS,
    FALLBACKS,
    FLAG_EVALUATIONS,
    INFERENCE_LATENCY,
    INFERENCES,
)
from trivium.patterns.precomputed import brought_record, judge
from trivium.patterns.steps import Backends, chain_of, price
from trivium.precompute.starting import precomputed_variant
from trivium.store.inferences import Row
from trivium.store.recorder import Recorder
from trivium.store.refresher import Refresher
from trivium.store.results import Refresh, StoredResult
from trivium.telemetry import new_id

log = structlog.get_logger()
# Within it the worker has computed an entity, or will not.
GENERATING_S = 60.0
# Why a stored result was not served, and what is wished for that. What does not fit the manifest's schema
# was stored before that was changed.
_WISHED: dict[str, RefreshReason] = {
    "result_missing": "missing",
    "result_stale": "age",
    "schema_violation": "variant",
}


class Serving:
    """Answers questions about the features of a catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        backends: Backends,
        flags: Flags,
        breakers: Breakers,
        recorder: Recorder,
        refresher: Refresher,
    ) -> None:
        self.catalogue = catalogue
        self._backends = backends
        self._flags = flags
        self._breakers = breakers
        self._recorder = recorder
        self._refresher = refresher
        self._chains = {feature.name: chain_of(feature, backends) for feature in catalogue}

    async def serve(
        self,
        feature_name: str,
        question: Question,
        subject: Subject,
        key_id: str,
        deadline_ms: int | None = None,
        *,
        wait: bool = True,
    ) -> Inference:
        """Answers inside the deadline, from the first step of the arm's chain that can.

        A stored result that is stale, missing or too old is wished for anew. If none but the non-AI
        version could answer in its place, that is the placeholder of an inference that is `generating`;
        with `wait=False` no other step is asked for it.

        Raises:
            NotFound: there is no such feature.
            InvalidInput: the input does not match its schema.
            InvalidRequest: `wait=False` for a feature whose answers are not stored.
        """
        started = time.monotonic()
        feature = self.catalogue.get(feature_name)
        manifest = feature.manifest
        feature.check_input(question.input)
        stored = isinstance(manifest.variants[manifest.serve], PrecomputedVariant)
        _check_mode(stored, question, wait)
        limit_ms = deadline_ms or manifest.deadline_ms
        arm = self._arm(manifest.rollout.flag, subject)
        chain = self._chains[feature.name]
        result = await run_chain(
            choose_variant(arm, chain if wait else [chain[0], chain[-1]]),
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
        if stored and arm is Arm.TREATMENT:
            self._wish(feature, made)
        self._recorder.record(made)
        _count(made)
        return made

    async def stored(
        self, feature_name: str, variant_name: str | None, entity_keys: list[str]
    ) -> tuple[str, list[tuple[StoredResult, Judged]]]:
        """What is stored for entities, in their order, by one query; what no longer holds is wished anew.

        Returns the variant's name with it.

        Raises:
            NotFound: there is no such feature or variant. Unavailable: the database is away.
        """
        feature = self.catalogue.get(feature_name)
        variant, spec = precomputed_variant(feature, variant_name)
        found = await self._backends.results.find(feature.name, variant.name, spec.archive, entity_keys)
        judged = [(one, judge(variant, one)) for one in found]
        for one, how in judged:
            if how.refresh:
                self._refresher.ask(Refresh(feature.name, variant.name, one.entity_key, how.refresh))
        return variant.name, judged

    async def settled(self, row: Row) -> Row:
        """The row of an inference that was generating, with its answer as soon as the worker has made it.

        When it was asked, nothing that could be served was stored: so whatever can be served now is newer.
        Once the worker has had GENERATING_S without making one (the entity cannot be computed, or no worker
        is there), the placeholder is the answer: degraded, for the reason that there was no result.

        Raises:
            Unavailable: the database is away.
        """
        if row["status"] == "done":
            return row
        made = await self._made_for(row)
        if made:
            variant, found, judged = made
            change = {
                "status": "done",
                "output": found.output,
                "step": variant.name,
                "pattern": variant.spec.pattern,
                "variant": variant.name,
                "version": found.variant_version,
                "model": found.model,
                "degraded": False,
                "fallback_reason": None,
                "confidence": found.confidence,
                "stale": judged.standing == "stale",
                "stale_reason": judged.stale_reason,
                "age_s": judged.age_s,
            }
        elif time.time() > row["created_at"] + GENERATING_S:
            change = {"status": "done"}
        else:
            return row
        return await self._recorder.settle(row, change)

    async def _made_for(self, row: Row) -> tuple[LoadedVariant, StoredResult, Judged] | None:
        """The result that an inference waits for; None while there is none that can be served."""
        try:
            feature = self.catalogue.get(row["feature"])
            variant, spec = precomputed_variant(feature, feature.manifest.serve)
        except NotFound:
            return None  # the manifest has changed, and nobody computes it any more
        key = row["entity_key"]
        (found,) = await self._backends.results.find(feature.name, variant.name, spec.archive, [key])
        record = brought_record(feature, spec, Question(row["input"], key))
        judged = judge(variant, found, record)
        if not judged.served or found.output is None:
            return None
        try:
            feature.check_output(found.output)
        except SchemaViolation:
            return None
        if judged.refresh:
            self._refresher.ask(Refresh(feature.name, variant.name, key, judged.refresh, record))
        return variant, found, judged

    def correct(self, row: Row) -> None:
        """Wishes an entity's result anew whose answer a user has corrected."""
        if row["pattern"] == "precomputed" and row["entity_key"]:
            self._refresher.ask(Refresh(row["feature"], row["variant"], row["entity_key"], "correction"))

    def _wish(self, feature: Feature, made: Inference) -> None:
        """Has the worker compute what was stale or missing; without another answer, that is waited for."""
        reason = _WISHED.get(made.fallback_reason or "") if made.degraded else made.answer.stale_reason
        if reason is None:
            return
        variant, spec = precomputed_variant(feature, feature.manifest.serve)
        assert made.question.entity_key is not None
        record = brought_record(feature, spec, made.question)
        self._refresher.ask(Refresh(feature.name, variant.name, made.question.entity_key, reason, record))
        if made.served_by.pattern == "static" and reason != "variant":
            made.status = "generating"

    def _arm(self, flag: str, subject: Subject) -> Arm:
        arm = choose_arm(self._flags.is_enabled(flag, subject.id, subject.properties))
        FLAG_EVALUATIONS.labels(flag, arm.value).inc()
        return arm


def _check_mode(stored: bool, question: Question, wait: bool) -> None:
    if stored and not question.entity_key:
        fault = FieldFault("entity_key", "is missing: this feature's results are per entity")
        raise InvalidRequest(f"entity_key {fault.message}", errors=(fault,))
    if not stored and not wait:
        fault = FieldFault(
            "mode", "async is for features whose results are stored; this one's are not", "async"
        )
        raise InvalidRequest(f"mode: {fault.message}", errors=(fault,))


def _named(result: ChainResult) -> ServedBy:
    """Who answered, with the model that did."""
    by = result.served_by
    model = result.answer.model or (result.attempts[-1].target if by.pattern == "api" else None)
    return ServedBy(by.step, by.pattern, by.variant, by.version, model)


def _count(made: Inference) -> None:
    by = made.served_by
    outcome = "control" if made.arm is Arm.CONTROL else "degraded" if made.degraded else "ok"
    if made.status == "generating":
        outcome = "generating"
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
