"""From inferences to columns, as the feature's schemas say."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trivium.domain.drift import Observation
from trivium.domain.recording import SENSITIVE
from trivium.drift.columns import Column, Labels, Matrix, Numbers, Profile, labels_of, vectors_of, words_of
from trivium.drift.text import language
from trivium.features import Feature

MAX_LABELS = 1_000
ROWS_A_LABEL = 2
"""A string of the output is a label if its values have so many rows on average, else free text."""
MAX_VECTORS = 2_000
"""Texts of a profile that are embedded; of more, so many that are spread evenly."""
Embedded = tuple[list[int], Matrix]
"""The rows whose texts are embedded, and their vectors."""
Schema = dict[str, Any]


def text_fields(schema: Schema) -> list[str]:
    """The properties of an input that are text: strings, neither of a fixed set nor sensitive."""
    found = _properties(schema).items()
    return [name for name, of in found if _type(of) == "string" and not _is_choice(of)]


def text_of(given: dict[str, Any], fields: Sequence[str]) -> str:
    """The text of an input: its text fields, one below the other."""
    return "\n".join(str(given[name]) for name in fields if given.get(name))


def profile_of(
    feature: Feature,
    observations: Sequence[Observation],
    embedded: Embedded | str,
    model: str = "",
    like: Profile | None = None,
) -> Profile:
    """The columns of observations.

    Args:
        feature: whose schemas say what is text, a label, a number.
        observations: the rows, in order.
        embedded: the vectors of the rows that `to_embed` names, or why there are none.
        model: whose vectors.
        like: the profile that it will be compared with, which has decided what is a label.
    """
    columns: dict[str, Column] = {}
    absent: dict[str, str] = {}
    _add_texts(feature, observations, embedded, model, columns, absent)
    _add_choices(feature, observations, columns)
    _add_outputs(feature, observations, columns, like)
    confident = [(row, one.confidence) for row, one in enumerate(observations) if one.confidence is not None]
    judged = _flags([one.overridden for one in observations])
    fell_back = _flags([one.fell_back for one in observations])
    for name, values in (("confidence", confident), ("override_rate", judged), ("fallback_rate", fell_back)):
        columns[name] = _numbers(values)
    groups = np.asarray([_group(one.subject_id) for one in observations], dtype=np.uint64)
    reasons = Counter(one.reason for one in observations if one.reason)
    return Profile(groups, columns, absent, dict(reasons.most_common()))


def to_embed(feature: Feature, observations: Sequence[Observation]) -> tuple[list[int], list[str]]:
    """The rows whose texts are to be embedded, and the texts."""
    found = _with_text(feature, observations)
    if len(found) > MAX_VECTORS:
        found = [found[place * len(found) // MAX_VECTORS] for place in range(MAX_VECTORS)]
    return [row for row, _ in found], [text for _, text in found]


def _with_text(feature: Feature, observations: Sequence[Observation]) -> list[tuple[int, str]]:
    """Row and text of the observations that have one."""
    fields = text_fields(feature.manifest.input)
    texts = ((row, text_of(one.input or {}, fields)) for row, one in enumerate(observations))
    return [(row, text) for row, text in texts if text]


def _add_texts(
    feature: Feature,
    observations: Sequence[Observation],
    embedded: Embedded | str,
    model: str,
    columns: dict[str, Column],
    absent: dict[str, str],
) -> None:
    found = _with_text(feature, observations)
    if not found:
        absent["input"] = _why_no_text(feature)
        return
    rows, texts = [row for row, _ in found], [text for _, text in found]
    columns["length"] = _numbers([(row, float(len(text))) for row, text in found])
    columns["language"] = labels_of(rows, [language(text) for text in texts])
    columns["words"] = words_of(rows, texts)
    if isinstance(embedded, str):
        absent["embedding"] = embedded
    else:
        columns["embedding"] = vectors_of(*embedded, model)


def _why_no_text(feature: Feature) -> str:
    if not text_fields(feature.manifest.input):
        return "the input's schema has no text that may be read"
    if feature.manifest.recording.payload in ("none", "hash"):
        return f"the feature's recording keeps no payload (payload: {feature.manifest.recording.payload})"
    return "no input of these inferences is kept"


def _add_choices(feature: Feature, observations: Sequence[Observation], columns: dict[str, Column]) -> None:
    """The input's properties of a fixed set of values."""
    for name, of in _properties(feature.manifest.input).items():
        if _is_choice(of):
            picked = _picked(observations, lambda one: one.input, name, str)
            columns[f"input.{name}"] = labels_of([row for row, _ in picked], [v for _, v in picked])


def _add_outputs(
    feature: Feature,
    observations: Sequence[Observation],
    columns: dict[str, Column],
    like: Profile | None,
) -> None:
    def output(one: Observation) -> dict[str, Any] | None:
        return one.output

    for name, of in _properties(feature.manifest.output).items():
        column, kind = f"output.{name}", _type(of)
        if _is_choice(of) or kind == "string":
            said = _picked(observations, output, name, str)
            values = [value for _, value in said]
            known = like.columns if like else {}
            is_label = isinstance(known.get(column), Labels) if like else _are_labels(values)
            if _is_choice(of) or is_label:
                columns[column] = labels_of([row for row, _ in said], values)
            else:
                columns[f"{column}.length"] = _numbers([(row, float(len(v))) for row, v in said])
        elif kind in ("number", "integer"):
            columns[column] = _numbers(_picked(observations, output, name, float))
        elif kind == "array":
            columns[f"{column}.length"] = _numbers(_picked(observations, output, name, len))


def _picked(
    observations: Sequence[Observation],
    part: Callable[[Observation], dict[str, Any] | None],
    name: str,
    of: Callable[[Any], Any],
) -> list[tuple[int, Any]]:
    found = ((row, (part(one) or {}).get(name)) for row, one in enumerate(observations))
    return [(row, of(value)) for row, value in found if value is not None]


def _numbers(values: Sequence[tuple[int, float]]) -> Numbers:
    rows = np.asarray([row for row, _ in values], dtype=np.int64)
    return Numbers(rows, np.asarray([value for _, value in values], dtype=np.float64))


def _flags(values: Sequence[bool | None]) -> list[tuple[int, float]]:
    return [(row, float(value)) for row, value in enumerate(values) if value is not None]


def _are_labels(values: Sequence[str]) -> bool:
    different = len(set(values))
    return different <= MAX_LABELS and different * ROWS_A_LABEL <= len(values)


def _properties(schema: Schema) -> dict[str, Schema]:
    found = schema.get("properties") or {}
    return {name: of for name, of in found.items() if isinstance(of, dict) and of.get(SENSITIVE) is not True}


def _is_choice(of: Schema) -> bool:
    return "enum" in of or "const" in of or of.get("type") == "boolean"


def _type(of: Schema) -> Any:
    """The type of a value that is not null."""
    kind = of.get("type")
    return next((one for one in kind if one != "null"), None) if isinstance(kind, list) else kind


def _group(subject_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(subject_id.encode(), digest_size=8).digest(), "little")
