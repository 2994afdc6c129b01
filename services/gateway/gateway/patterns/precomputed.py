"""Pattern `precomputed`: a result that the worker stored, in one read."""

import time

from trivium.domain.inference import Question, StaleReason, StepAnswer
from trivium.domain.manifest import PrecomputedVariant
from trivium.errors import ConnectionFailed, ResultMissing, ResultStale, Unavailable
from trivium.store.results import ResultRepository, StoredResult


class PrecomputedStep:
    """One pre-computed variant."""

    def __init__(
        self, feature: str, version: str, spec: PrecomputedVariant, results: ResultRepository
    ) -> None:
        self._feature = feature
        self._version = version
        self._spec = spec
        self._results = results

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Reads the entity's result; says if it is stale, refuses it past `hard_max_age_s`."""
        if question.entity_key is None:
            raise ResultMissing("the request names no entity_key")
        try:
            found = await self._results.find(self._feature, self._spec.archive, question.entity_key)
        except Unavailable as error:
            raise ConnectionFailed(error.detail) from error
        if found is None:
            raise ResultMissing(f"nothing is stored for {question.entity_key!r}")
        age_s = max(0.0, time.time() - found.computed_at)
        if age_s > self._spec.hard_max_age_s:
            raise ResultStale(f"{age_s:.0f} s old, over {self._spec.hard_max_age_s}")
        reason = self._stale_reason(found, age_s)
        return StepAnswer(found.output, stale=reason is not None, stale_reason=reason, age_s=round(age_s, 1))

    def _stale_reason(self, found: StoredResult, age_s: float) -> StaleReason | None:
        if found.input_hash != found.current_input_hash:
            return "input"
        if found.variant_version != self._version:
            return "variant"
        return "age" if age_s > self._spec.max_age_s else None
