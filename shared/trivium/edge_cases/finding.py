"""The groups of questions that go wrong most: found, named and ranked by what they cost users."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.domain.estimate import Estimate, share
from trivium.edge_cases.clusters import centres, cut_of, group, nearest
from trivium.edge_cases.texts import Vectors, names, text_of
from trivium.errors import LowConfidence, OutOfScope
from trivium.store.edge_cases import Answer

ABSTAINED = frozenset({LowConfidence.code, OutOfScope.code})
MOST_TROUBLED = 3_000
LEAST = 3
"""Texts that make a group; fewer are chance."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One question of a group, what was answered and what would have been right."""

    inference_id: str
    text: str
    output: dict[str, Any]
    corrected: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class EdgeCase:
    """A group of questions.

    `frequency`: inferences of the window that are about it; `wrong` of its `known` ones were overridden, or
    abstained on without any feedback. `impact` is frequency x rate x subjects.
    """

    name: str
    frequency: int
    subjects: int
    known: int
    wrong: int
    rate: Estimate
    impact: float
    correction: str | None
    examples: list[Example]


def is_troubled(answer: Answer, unsure: float) -> bool:
    """Whether an answer was put right, or the model was not sure and nobody said that it was right."""
    return answer.overridden or (not answer.judged and _unsure(answer, unsure))


def _unsure(answer: Answer, unsure: float) -> bool:
    low = answer.confidence is not None and answer.confidence < unsure
    return answer.fallback_reason in ABSTAINED or low


def find(answers: Sequence[Answer], vectors: Vectors, *, unsure: float, top: int) -> list[EdgeCase]:
    """The `top` groups by impact.

    Args:
        answers: of a window.
        vectors: of their texts, unit length, [len(answers), dimensions].
        unsure: confidence under which a model was not sure.
        top: how many groups are wanted.
    """
    troubled = [place for place, answer in enumerate(answers) if is_troubled(answer, unsure)][:MOST_TROUBLED]
    if len(troubled) < LEAST:
        return []
    cut = cut_of(vectors)
    own = vectors[troubled]
    groups = group(own, cut)
    sizes = Counter(groups.tolist())
    wanted = sorted(number for number, size in sizes.items() if size >= LEAST)
    if not wanted:
        return []
    middles = centres(own, groups, wanted)
    about = nearest(vectors, middles, cut)
    about[troubled] = [wanted.index(number) if number in wanted else -1 for number in groups.tolist()]
    texts = [text_of(answer.input) for answer in answers]
    members = [np.flatnonzero(about == place) for place in range(len(wanted))]
    bad = set(troubled)
    called = names([[texts[m] for m in some if m in bad] for some in members], texts)
    made = [
        _edge_case(name, [answers[m] for m in _by_nearness(some, vectors, middle)], unsure)
        for name, some, middle in zip(called, members, middles, strict=True)
    ]
    return sorted(made, key=lambda one: (-one.impact, one.name))[:top]


def _by_nearness(members: Any, vectors: Vectors, middle: Any) -> list[int]:
    nearness = vectors[members] @ middle
    return [int(members[place]) for place in np.argsort(-nearness, kind="stable")]


def _edge_case(name: str, members: Sequence[Answer], unsure: float) -> EdgeCase:
    known = [one for one in members if one.judged or _unsure(one, unsure)]
    wrong = [one for one in known if is_troubled(one, unsure)]
    rate = share(len(wrong), len(known))
    assert rate
    subjects = len({one.subject_id for one in members})
    return EdgeCase(
        name=name,
        frequency=len(members),
        subjects=subjects,
        known=len(known),
        wrong=len(wrong),
        rate=rate,
        impact=len(members) * rate.value * subjects,
        correction=_correction(wrong),
        examples=_examples(wrong),
    )


def _correction(wrong: Sequence[Answer]) -> str | None:
    """The most frequent way in which answers were put right."""
    pairs = Counter(
        (_shown(one.output), _shown(one.corrected)) for one in wrong if one.corrected and one.output
    )
    if not pairs:
        return None
    ((was, right), count), total = (
        min(pairs.items(), key=lambda item: (-item[1], item[0])),
        sum(pairs.values()),
    )
    return f"{was} should be {right}: {count} of {total}"


def _examples(wrong: Sequence[Answer]) -> list[Example]:
    found: dict[str, Example] = {}
    for one in wrong:
        text = text_of(one.input)
        if text not in found and len(found) < EXAMPLES:
            found[text] = Example(one.id, text, one.output, one.corrected)
    return list(found.values())


def _shown(output: dict[str, Any]) -> str:
    """An output as its value, if it has but one."""
    if len(output) == 1:
        (value,) = output.values()
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(output, ensure_ascii=False, sort_keys=True)
