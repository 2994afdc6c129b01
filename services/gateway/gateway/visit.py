"""One request to a feature, from its arrival to what the books say of it."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from gateway.purse import estimated
from trivium.domain.fallback import ChainResult
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer, Subject, Usage
from trivium.domain.variants import ApiVariant
from trivium.features import Feature, LoadedVariant
from trivium.store.cache import ResponseCache
from trivium.store.keys import Key
from trivium.telemetry import new_id

NOBODY = ServedBy("none", "static")
CACHE = "cache"
"""The target of an attempt that was answered from the cache."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What is known of it before it is answered, and its attempts."""

    feature: Feature
    question: Question
    subject: Subject
    key: Key
    arm: Arm
    limit_ms: int
    id: str = field(default_factory=new_id)
    started: float = field(default_factory=time.monotonic)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def cache_s(self) -> int | None:
        """How long the served variant's answers are kept for the same question; None if they are not."""
        spec = self._served.spec
        keeps = isinstance(spec, ApiVariant) and self.arm is Arm.TREATMENT and not self.question.listener
        return spec.cache_s if keeps and isinstance(spec, ApiVariant) else None

    def cache_key(self) -> str:
        """Caller, version and the whole question."""
        given = {"input": self.question.input, "entity_key": self.question.entity_key}
        return ResponseCache.key_of(self.key.id, f"{self.feature.name}/{self._served.version}", given)

    def may_be_kept(self, result: ChainResult) -> bool:
        """Whether it is the served variant's own answer."""
        return self.cache_s is not None and result.fallback_reason is None

    def to_cache(self, result: ChainResult) -> dict[str, Any]:
        """What is kept of an answer."""
        answer = result.answer
        return {"output": answer.output, "model": answer.model, "confidence": answer.confidence}

    def from_cache(self, kept: dict[str, Any]) -> ChainResult:
        """The answer that was kept, which costs nothing."""
        served = self._served
        by = ServedBy(served.name, served.spec.pattern, served.name, served.version)
        self.attempts.append(Attempt(by, CACHE, "ok", 0.0, cost_usd=0.0))
        return ChainResult(StepAnswer(**kept), by, None, self.attempts)

    def estimate(self) -> Usage:
        """The tokens that the question may cost, rather too many than too few."""
        return estimate_of(self._served, self.question)

    def answered(self, result: ChainResult) -> Inference:
        """The inference of an answer."""
        return self._made(
            result.answer, _named(result), result.fallback_reason, handed_on_from=result.handed_on_from
        )

    @property
    def _served(self) -> LoadedVariant:
        return self.feature.variants[self.feature.manifest.serve]

    def unanswered(self, status: Literal["failed", "left"]) -> Inference:
        """The inference of a request that ended without an answer."""
        reason = next((a.outcome for a in self.attempts if a.outcome != "ok"), status)
        return self._made(StepAnswer({}), NOBODY, reason, status)

    def _made(
        self,
        answer: StepAnswer,
        by: ServedBy,
        reason: str | None,
        status: Literal["done", "failed", "left"] = "done",
        handed_on_from: str | None = None,
    ) -> Inference:
        return Inference(
            id=self.id,
            feature=self.feature.name,
            arm=self.arm,
            subject_id=self.subject.id,
            key_id=self.key.id,
            question=self.question,
            answer=answer,
            served_by=by,
            degraded=reason is not None,
            fallback_reason=reason,
            attempts=self.attempts,
            deadline_ms=self.limit_ms,
            latency_ms=(time.monotonic() - self.started) * 1000,
            created_at=time.time(),
            status=status,
            handed_on_from=handed_on_from,
            cached=bool(self.attempts) and self.attempts[-1].target == CACHE,
        )


def estimate_of(variant: LoadedVariant, question: Question) -> Usage:
    """The tokens that a variant's answer to a question may cost, rather too many than too few."""
    most = variant.spec.max_output_tokens if isinstance(variant.spec, ApiVariant) else 256
    return estimated(len(orjson.dumps(question.input)) + len(variant.prompt or ""), most)


def _named(result: ChainResult) -> ServedBy:
    """Who answered, with the model that did."""
    by = result.served_by
    model = result.answer.model or (result.attempts[-1].target if by.pattern == "api" else None)
    return ServedBy(by.step, by.pattern, by.variant, by.version, model)
