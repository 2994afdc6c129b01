"""From stored answers and their feedback to opinions: what may be learnt from, and what may not."""

from collections import Counter
from dataclasses import dataclass, field

from trivium.domain.corrections import Opinion, Tally, tally
from trivium.domain.feedback import WITH_VALUE, Kind
from trivium.domain.inference import Arm
from trivium.domain.recording import is_redacted
from trivium.domain.sameness import input_hash
from trivium.domain.variants import EdgeVariant
from trivium.errors import InvalidInput, SchemaViolation
from trivium.features import Feature
from trivium.store.corrections import CorrectionRepository, JudgedAnswer, Said

LABEL = "label"
"""What an edge model learns of an output."""


@dataclass(slots=True)
class Evidence:
    """What was said of a feature's answers, summed up by input, and what of it could not be used, by why."""

    tallies: dict[str, Tally]
    left_out: Counter[str] = field(default_factory=Counter)
    answers: int = 0


def compared_fields(feature: Feature) -> tuple[str, ...]:
    """The fields by which outputs are the same: the label where an edge model learns from them, else all."""
    edge = any(isinstance(variant.spec, EdgeVariant) for variant in feature.variants.values())
    return (LABEL,) if edge and LABEL in (feature.manifest.output.get("properties") or {}) else ()


async def gather(feature: Feature, repository: CorrectionRepository, since: float = 0.0) -> Evidence:
    """Reads all that was said of a feature's answers since a time; raises Unavailable."""
    opinions: list[Opinion] = []
    found = Evidence({})
    async for answer in repository.judged(feature.name, since):
        found.answers += 1
        opinions += opinions_of(feature, answer, found.left_out)
    found.tallies = tally(opinions, compared_fields(feature))
    return found


def opinions_of(feature: Feature, answer: JudgedAnswer, left_out: Counter[str]) -> list[Opinion]:
    """What was said of one answer; what cannot be used is counted by why.

    A right output teaches, whoever gave the answer that it corrects. That an answer was accepted says that
    the model is right only if the model gave it: not the non-AI version, nor a fallback, nor a placeholder.
    """
    if why := _unusable(feature, answer):
        left_out[why] += len(answer.said)
        return []
    hashed = input_hash(answer.input, answer.entity_key)
    made = []
    for said in answer.said:
        why = _unusable_word(feature, answer, said)
        if why:
            left_out[why] += 1
        # What the right output was is gone, but not that the answer was none.
        if not why or said.kind in WITH_VALUE:
            made.append(_opinion(hashed, answer, said, void=bool(why)))
    return made


def _unusable(feature: Feature, answer: JudgedAnswer) -> str | None:
    if is_redacted(answer.input) or is_redacted(answer.output):
        return "redacted"
    if not answer.input and not answer.entity_key:
        return "nothing was asked"
    try:
        feature.check_input(answer.input)
    except InvalidInput:
        return "input no longer valid"
    return None


def _unusable_word(feature: Feature, answer: JudgedAnswer, said: Said) -> str | None:
    if said.kind is Kind.ACCEPTED and not _by_the_model(answer):
        return "accepted, but not the model's answer"
    right = answer.output if said.kind is Kind.ACCEPTED else said.value
    if right is None:
        # Of an edit that was forgotten nothing is left; the other kinds never have a value.
        return "forgotten" if said.kind in WITH_VALUE else None
    if is_redacted(right):
        return "redacted"
    try:
        feature.check_output(right)
    except SchemaViolation:
        return "output no longer valid"
    return None


def _by_the_model(answer: JudgedAnswer) -> bool:
    return (
        answer.arm == Arm.TREATMENT.value
        and answer.variant is not None
        and answer.status == "done"
        and not answer.degraded
        and not answer.settled_late
    )


def _opinion(hashed: str, answer: JudgedAnswer, said: Said, *, void: bool) -> Opinion:
    accepts = said.kind is Kind.ACCEPTED
    given = None if void or said.kind not in WITH_VALUE else said.value
    # Nobody knows whether it was the placeholder that was refused.
    unclear = answer.settled_late or answer.status != "done"
    return Opinion(
        input_hash=hashed,
        input=answer.input,
        entity_key=answer.entity_key,
        subject=answer.subject_id,
        inference_id=answer.id,
        feedback_id=said.id,
        answered=answer.output,
        variant=f"{answer.variant}/{answer.version}" if answer.variant else answer.step,
        right=answer.output if accepts else given,
        occurred_at=said.occurred_at,
        received_at=said.received_at,
        accepts=accepts,
        withdraws=void or said.kind is Kind.DISMISSED or (said.kind is Kind.THUMBS_DOWN and unclear),
    )
