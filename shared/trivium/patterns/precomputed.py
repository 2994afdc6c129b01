"""Pattern `precomputed`: a result that the worker stored, in one read."""

import time

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.manifest import PrecomputedVariant
from trivium.domain.precompute import stale_reason
from trivium.errors import ConnectionFailed, EntityUnknown, ResultMissing, ResultStale, Unavailable
from trivium.features import LoadedVariant
from trivium.store.archive import input_hash
from trivium.store.results import ResultRepository


class PrecomputedStep:
    """One pre-computed variant."""

    def __init__(self, feature: str, variant: LoadedVariant, results: ResultRepository) -> None:
        assert isinstance(variant.spec, PrecomputedVariant)
        self._feature = feature
        self._variant = variant
        self._spec = variant.spec
        self._results = results

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Reads the entity's result; says if it is stale, refuses it past `hard_max_age_s`.

        Raises:
            EntityUnknown: there is neither a result nor anything to compute one from.
            ResultMissing: the worker has not computed it yet. ResultStale: it is too old to be served.
        """
        if question.entity_key is None:
            raise EntityUnknown("the request names no entity_key")
        try:
            (found,) = await self._results.find(
                self._feature, self._variant.name, self._spec.archive, [question.entity_key]
            )
        except Unavailable as error:
            raise ConnectionFailed(error.detail) from error
        current = (
            input_hash(question.input) if brings_input(self._spec, question) else found.current_input_hash
        )
        if found.output is None:
            if current is None:
                raise EntityUnknown(f"{question.entity_key!r} is not in the archive {self._spec.archive!r}")
            raise ResultMissing(f"nothing is stored for {question.entity_key!r}")
        age_s = max(0.0, time.time() - found.computed_at)
        if age_s > self._spec.hard_max_age_s:
            raise ResultStale(f"{age_s:.0f} s old, over {self._spec.hard_max_age_s}")
        reason = stale_reason(
            stored_hash=found.input_hash,
            current_hash=current,
            stored_version=found.variant_version,
            current_version=self._variant.version,
            age_s=age_s,
            max_age_s=self._spec.max_age_s,
        )
        return StepAnswer(
            found.output,
            confidence=found.confidence,
            model=found.model,
            stale=reason is not None,
            stale_reason=reason,
            age_s=round(age_s, 1),
        )


def brings_input(spec: PrecomputedVariant, question: Question) -> bool:
    """Whether a request carries the entity's input itself, which then is newer than the archive's."""
    return bool(spec.compute.variants and question.input)
