"""How far what a user made of an answer is from that answer: 0 if it is the same, 1 if nothing is left."""

from collections.abc import Mapping
from typing import Any

import orjson
from rapidfuzz.distance import Levenshtein, Postfix, Prefix

from trivium.domain.recording import is_redacted

MOST_CHARS = 5_000
"""Of a field's differing middle that are compared; what lies beyond counts as changed."""


def edit_distance(answered: Mapping[str, Any] | None, given: Mapping[str, Any]) -> float | None:
    """The normalised Levenshtein distance of two outputs; None where the answer was not kept whole.

    Each property that either has is compared by its text if both are text, else by its canonical JSON (sorted
    keys, no spaces); one that is missing is empty. The distance is the sum of the insertions, deletions and
    substitutions of single characters over the sum of the longer lengths.

    Source: V. I. Levenshtein, Soviet Physics Doklady 10 (1966) 707.
    """
    if answered is None or is_redacted(answered):
        return None
    changes = length = 0
    for name in answered.keys() | given.keys():
        before, after = _texts(answered, given, name)
        changes += _changes(before, after)
        length += max(len(before), len(after))
    return changes / length if length else 0.0


def _texts(answered: Mapping[str, Any], given: Mapping[str, Any], name: str) -> tuple[str, str]:
    values = [one[name] for one in (answered, given) if name in one]
    plain = all(isinstance(value, str) for value in values)
    before, after = (_text(one, name, plain) for one in (answered, given))
    return before, after


def _text(output: Mapping[str, Any], name: str, plain: bool) -> str:
    if name not in output:
        return ""
    value = output[name]
    return value if plain else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _changes(before: str, after: str) -> int:
    """The distance; of very long texts, whose cost grows with the product of the lengths, an upper bound."""
    if max(len(before), len(after)) > MOST_CHARS:
        start = Prefix.similarity(before, after)
        before, after = before[start:], after[start:]
        end = Postfix.similarity(before, after)
        before, after = before[: len(before) - end], after[: len(after) - end]
    beyond = max(len(before), len(after)) - MOST_CHARS
    return Levenshtein.distance(before[:MOST_CHARS], after[:MOST_CHARS]) + max(0, beyond)
