"""What users said of answers, input by input: which output is right, and what is in dispute."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from trivium.domain.sameness import output_key

Output = dict[str, Any]
ExampleKind = Literal["correction", "accepted", "reviewed"]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one subject said of one answer to an input.

    `right` is the output that they say is right; None: `answered` is not. `accepts`: they took the answer as
    it was. `withdraws`: they wanted none of it, which does not say that it is wrong. Times are Unix seconds.
    """

    input_hash: str
    input: dict[str, Any]
    entity_key: str | None
    subject: str
    inference_id: str
    feedback_id: str
    answered: Output | None
    variant: str
    right: Output | None
    occurred_at: float
    received_at: float
    accepts: bool = False
    withdraws: bool = False

    @property
    def moment(self) -> tuple[float, float, str]:
        """Its place among others."""
        return self.occurred_at, self.received_at, self.feedback_id


@dataclass(frozen=True, slots=True)
class Right:
    """An output, and who says that it is right: one opinion a subject, oldest first."""

    key: str
    output: Output
    said: tuple[Opinion, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """All that counts of what was said about one input; `rights` by their number of subjects, most first."""

    input_hash: str
    input: dict[str, Any]
    entity_key: str | None
    rights: tuple[Right, ...]
    rejections: tuple[Opinion, ...]
    rejected: frozenset[str]

    @property
    def disputed(self) -> bool:
        """Whether subjects disagree on what is right."""
        return len(self.rights) > 1 or any(one.key in self.rejected for one in self.rights)

    @property
    def opinions(self) -> tuple[Opinion, ...]:
        """Every opinion that counts, oldest first."""
        said = [opinion for one in self.rights for opinion in one.said]
        return tuple(sorted([*said, *self.rejections], key=lambda one: one.moment))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A person's word on an input; `output` is the right one, None for `drop`."""

    input_hash: str
    verdict: Literal["accept", "amend", "drop"]
    output: Output | None
    decided_by: str
    reason: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Example:
    """An input with its right output, and where that comes from."""

    input_hash: str
    input: dict[str, Any]
    entity_key: str | None
    output: Output
    kind: ExampleKind
    subjects: int = 0
    inference_ids: tuple[str, ...] = ()
    feedback_ids: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()


Outcome = Example | Literal["disputed", "too_few", "dropped", "rejected"]


def tally(opinions: Iterable[Opinion], fields: Collection[str] = ()) -> dict[str, Tally]:
    """Sums up opinions by input, in whatever order they come.

    An acceptance of an answer that was also edited, corrected or refused counts for nothing. Of the outputs
    that one subject called right, the latest counts, unless they refused that very output later.
    """
    every = list(opinions)
    overridden = {one.inference_id for one in every if not one.accepts}
    by_input: dict[str, list[Opinion]] = defaultdict(list)
    for one in every:
        if not (one.accepts and one.inference_id in overridden):
            by_input[one.input_hash].append(one)
    return {hashed: _tally(hashed, some, fields) for hashed, some in sorted(by_input.items())}


def _tally(hashed: str, opinions: list[Opinion], fields: Collection[str]) -> Tally:
    first = min(opinions, key=lambda one: one.moment)
    by_subject: dict[str, list[Opinion]] = defaultdict(list)
    for one in sorted(opinions, key=lambda one: one.moment):
        by_subject[one.subject].append(one)
    said: dict[str, list[Opinion]] = defaultdict(list)
    refused: dict[str, list[Opinion]] = defaultdict(list)
    for some in by_subject.values():
        right, refusals = _last_word(some, fields)
        if right is not None and right.right is not None:
            said[output_key(right.right, fields)].append(right)
        for key, one in refusals.items():
            refused[key].append(one)
    rights = [_right(key, some) for key, some in said.items()]
    rights.sort(key=lambda one: (-len(one.said), -one.said[-1].occurred_at, one.key))
    rejections = sorted((one for some in refused.values() for one in some), key=lambda one: one.moment)
    return Tally(hashed, first.input, first.entity_key, tuple(rights), tuple(rejections), frozenset(refused))


def _right(key: str, some: list[Opinion]) -> Right:
    said = tuple(sorted(some, key=lambda one: one.moment))
    return Right(key, dict(said[0].right or {}), said)


def _last_word(some: list[Opinion], fields: Collection[str]) -> tuple[Opinion | None, dict[str, Opinion]]:
    """What one subject calls right, and by key the outputs that they refuse; from all they said, in order."""
    right: Opinion | None = None
    key = ""
    refusals: dict[str, Opinion] = {}
    for one in some:
        if one.right is not None:
            right, key = one, output_key(one.right, fields)
            refusals.pop(key, None)
        elif not one.withdraws and one.answered is not None:
            refused = output_key(one.answered, fields)
            refusals[refused] = one
            if refused == key:
                right, key = None, ""
    return right, refusals


def reopened(found: Tally, verdict: Verdict, fields: Collection[str] = ()) -> bool:
    """Whether a subject has contradicted a verdict since; one that drops an input stands for good."""
    if verdict.output is None:
        return False
    key = output_key(verdict.output, fields)
    against = [one for right in found.rights if right.key != key for one in right.said]
    against += found.rejections if key in found.rejected else ()
    return any(one.received_at > verdict.created_at for one in against)


def outcome(found: Tally, verdict: Verdict | None, min_agree: int = 1) -> Outcome:
    """What becomes of an input: a verdict decides, else all subjects must agree, and so many of them."""
    if verdict is not None:
        if verdict.output is None:
            return "dropped"
        return _example(found, verdict.output, "reviewed", found.opinions)
    if found.disputed:
        return "disputed"
    if not found.rights:
        return "rejected"
    (right,) = found.rights
    if len(right.said) < min_agree:
        return "too_few"
    corrected = any(not one.accepts for one in right.said)
    return _example(found, right.output, "correction" if corrected else "accepted", right.said)


def _example(found: Tally, output: Output, kind: ExampleKind, said: tuple[Opinion, ...]) -> Example:
    return Example(
        found.input_hash,
        found.input,
        found.entity_key,
        output,
        kind,
        subjects=len(said),
        inference_ids=tuple(sorted({one.inference_id for one in said})),
        feedback_ids=tuple(sorted(one.feedback_id for one in said)),
        variants=tuple(sorted({one.variant for one in said})),
    )


def carried(before: Example, verdict: Verdict | None) -> Example | Literal["dropped"]:
    """What becomes of an earlier version's example of which nothing but a verdict is to be read any more."""
    if verdict is None:
        return before
    return "dropped" if verdict.output is None else replace(before, output=verdict.output, kind="reviewed")
