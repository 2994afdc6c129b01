"""Pattern `precomputed`: a result that the worker stored, in one read."""

import time
from typing import Any

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.precompute import Judged, stale_reason
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import ConnectionFailed, EntityUnknown, ResultMissing, ResultStale, Unavailable
from trivium.features import Feature, LoadedVariant
from trivium.store.archive import input_hash
from trivium.store.results import ResultRepository, StoredResult


class PrecomputedStep:
    """One pre-computed variant."""

    def __init__(self, feature: Feature, variant: LoadedVariant, results: ResultRepository) -> None:
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
                self._feature.name, self._variant.name, self._spec.archive, [question.entity_key]
            )
        except Unavailable as error:
            raise ConnectionFailed(error.detail) from error
        judged = judge(self._variant, found, brought_record(self._feature, self._spec, question))
        match judged.standing:
            case "unknown":
                raise EntityUnknown(f"{question.entity_key!r} is not in the archive {self._spec.archive!r}")
            case "missing":
                raise ResultMissing(f"nothing is stored for {question.entity_key!r}")
            case "expired":
                raise ResultStale(f"{judged.age_s:.0f} s old, over {self._spec.hard_max_age_s}")
        assert found.output is not None
        return StepAnswer(
            found.output,
            confidence=found.confidence,
            model=found.model,
            stale=judged.standing == "stale",
            stale_reason=judged.stale_reason,
            age_s=judged.age_s,
        )


def judge(variant: LoadedVariant, found: StoredResult, record: dict[str, Any] | None = None) -> Judged:
    """How a result stands against its entity, its variant and its age.

    Args:
        variant: as the manifest has it.
        found: what there is of the entity.
        record: the entity's record as a request brings it, which is newer than the archive's.
    """
    spec = variant.spec
    assert isinstance(spec, PrecomputedVariant)
    current = input_hash(record) if record else found.current_input_hash
    if found.output is None:
        return Judged("unknown" if current is None else "missing")
    age_s = round(max(0.0, time.time() - found.computed_at), 1)
    reason = stale_reason(
        stored_hash=found.input_hash,
        current_hash=current,
        stored_version=found.variant_version,
        current_version=variant.version,
        age_s=age_s,
        max_age_s=spec.max_age_s,
    )
    if age_s > spec.hard_max_age_s:
        return Judged("expired", reason, age_s)
    return Judged("stale" if reason else "fresh", reason, age_s)


def brought_record(feature: Feature, spec: PrecomputedVariant, question: Question) -> dict[str, Any] | None:
    """The entity's record, where the variant computes from the very input that a request has."""
    return feature.record_of(question.input) if spec.compute.variants and question.input else None
