"""From a question to its answer: arm, chain, price, record. The one way that every door leads to."""

import time
from asyncio import CancelledError
from typing import Literal

from gateway.books import Books
from gateway.purse import Purse, Spending
from gateway.shadows import Shadows
from gateway.visit import Visit
from trivium.domain.breaker import Breakers
from trivium.domain.fallback import ChainResult, Conduct, Deadline, drawn, run_chain
from trivium.domain.inference import GENERATING_S, Arm, Inference, Question, Subject
from trivium.domain.precompute import Judged, RefreshReason
from trivium.domain.rollout import Flags, choose_arm, choose_variant
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import FieldFault, InvalidRequest, NotFound, SchemaViolation
from trivium.features import Catalogue, Feature, LoadedVariant
from trivium.metrics import FLAG_EVALUATIONS
from trivium.patterns.precomputed import brought_record, judge
from trivium.patterns.steps import Backends, FeatureStep, chain_of
from trivium.precompute.starting import precomputed_variant
from trivium.store.cache import ResponseCache
from trivium.store.inferences import Row
from trivium.store.keys import Key
from trivium.store.refresher import Refresher
from trivium.store.results import Refresh, StoredResult
from trivium.tracing import Span, span

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
        books: Books,
        refresher: Refresher,
        purse: Purse,
        cache: ResponseCache,
        shadows: Shadows,
    ) -> None:
        self.catalogue = catalogue
        self._backends = backends
        self._flags = flags
        self._breakers = breakers
        self._books = books
        self._refresher = refresher
        self._purse = purse
        self._cache = cache
        self._shadows = shadows
        self.rebuild()

    def rebuild(self) -> None:
        """Makes the chains anew, after the routes that they go by have changed."""
        self._chains = {feature.name: chain_of(feature, self._backends) for feature in self.catalogue}
        self._shadows.rebuild()

    async def serve(
        self,
        feature_name: str,
        question: Question,
        subject: Subject,
        key: Key,
        deadline_ms: int | None = None,
        *,
        wait: bool = True,
        fresh: bool = False,
    ) -> Inference:
        """Answers inside the deadline, from the first step of the arm's chain that can.

        A stored result that is stale, missing or too old is wished for anew. If none but the non-AI
        version could answer in its place, that is the placeholder of an inference that is `generating`;
        with `wait=False` no other step is asked for it, with `fresh` no kept answer is looked for.

        Raises:
            LimitReached: the key has used up its requests.
            NotFound: there is no such feature.
            InvalidInput: the input does not match its schema.
            InvalidRequest: `wait=False` for a feature whose answers are not stored.
        """
        feature = self.catalogue.get(feature_name)
        manifest = feature.manifest
        feature.check_input(question.input)
        _check_mode(_is_stored(feature), question, wait)
        arm = self._arm(manifest.rollout.flag, subject)
        await self._purse.enter(key)
        visit = Visit(feature, question, subject, key, arm, deadline_ms or manifest.deadline_ms)
        with span(f"inference {feature.name}") as whole:
            made = await self._made(visit, whole, wait=wait, fresh=fresh)
            self._shadows.offer(feature, made)
        return made

    async def _made(self, visit: Visit, whole: Span, *, wait: bool, fresh: bool) -> Inference:
        """The answer to a visit, entered into the books; so is that there is none."""
        feature = visit.feature
        try:
            result = (None if fresh else await self._kept(visit)) or await self._answer(visit, wait)
        except BaseException as error:
            status: Literal["left", "failed"] = "left" if isinstance(error, CancelledError) else "failed"
            self._books.enter(visit.unanswered(status), feature.keeping, whole)
            raise
        made = visit.answered(result)
        if _is_stored(feature) and visit.arm is Arm.TREATMENT:
            self._wish(feature, made)
        self._books.enter(made, feature.keeping, whole)
        return made

    async def _kept(self, visit: Visit) -> ChainResult | None:
        """The answer to the very same question of the same key, where the variant keeps them."""
        if visit.cache_s is None:
            return None
        kept = await self._cache.get(visit.feature.name, visit.cache_key())
        return visit.from_cache(kept) if kept else None

    async def _answer(self, visit: Visit, wait: bool) -> ChainResult:
        chain = self._chains[visit.feature.name]
        spending = self._purse.spending(
            visit.feature.name, visit.feature.manifest.budget.monthly_usd, visit.key, visit.estimate
        )
        try:
            result = await self._walk(visit, chain, wait, spending)
        finally:
            self._books.price(visit.feature.name, visit.attempts)
            spending.settle(visit.attempts)
        if visit.may_be_kept(result):
            self._cache.put(visit.cache_key(), visit.to_cache(result), visit.cache_s or 1)
        return result

    async def _walk(
        self, visit: Visit, chain: list[FeatureStep], wait: bool, spending: Spending
    ) -> ChainResult:
        return await run_chain(
            drawn(choose_variant(visit.arm, chain if wait else [chain[0], chain[-1]])),
            visit.question,
            Deadline.after_ms(visit.limit_ms),
            self._breakers,
            visit.feature.check_output,
            Conduct(admit=spending.admit),
            visit.attempts,
        )

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
        keeping = self.catalogue.keeping_of(row["feature"])
        return await self._books.recorder.settle(row, change, keeping)

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


def _is_stored(feature: Feature) -> bool:
    """Whether what is served is a stored result."""
    return isinstance(feature.manifest.variants[feature.manifest.serve], PrecomputedVariant)


def _check_mode(stored: bool, question: Question, wait: bool) -> None:
    if stored and not question.entity_key:
        fault = FieldFault("entity_key", "is missing: this feature's results are per entity")
        raise InvalidRequest(f"entity_key {fault.message}", errors=(fault,))
    if not stored and not wait:
        fault = FieldFault(
            "mode", "async is for features whose results are stored; this one's are not", "async"
        )
        raise InvalidRequest(f"mode: {fault.message}", errors=(fault,))
