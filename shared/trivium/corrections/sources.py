"""What a dataset is merged with and kept apart from: labelled messages from before, and the golden set."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.corrections.evidence import LABEL
from trivium.datasets import read_records
from trivium.domain.sameness import input_hash
from trivium.domain.variants import EdgeVariant
from trivium.errors import ConfigurationError, DatasetError, InvalidInput
from trivium.features import Feature


@dataclass(frozen=True, slots=True)
class Golden:
    """The fixed dataset's inputs, by their hashes."""

    path: str
    sha256: str
    lines: int
    hashes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A message with its label."""

    input_hash: str
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Base:
    """Labelled messages from before, each input once: its first."""

    path: Path
    sha256: str
    rows: dict[str, Labelled]
    repeated: int


def golden_of(feature: Feature) -> Golden:
    """The inputs of a feature's fixed dataset; raises DatasetError if it does not read."""
    path = feature.folder / feature.manifest.evaluation.dataset
    hashes, lines = set(), 0
    for record in read_records(path):
        lines += 1
        given, entity_key = record.get("input") or {}, record.get("entity_key")
        if given or entity_key:
            hashes.add(input_hash(given, entity_key))
    name = feature.manifest.evaluation.dataset
    return Golden(name, _sha256(path), lines, frozenset(hashes))


def text_field_of(feature: Feature) -> str | None:
    """The input property that the feature's edge model reads, that of the served variant first; or None."""
    names = sorted(feature.variants, key=lambda name: name != feature.manifest.serve)
    specs = [feature.variants[name].spec for name in names]
    return next((spec.text_field for spec in specs if isinstance(spec, EdgeVariant)), None)


def read_base(feature: Feature, path: Path, text_field: str, label_field: str) -> Base:
    """Reads a CSV or JSONL of labelled messages.

    Raises:
        ConfigurationError: the feature has no edge variant. DatasetError: a line lacks a field, or its text
            is no input of the feature; the message names it.
    """
    own = text_field_of(feature)
    if own is None or LABEL not in (feature.manifest.output.get("properties") or {}):
        raise ConfigurationError(
            f"{feature.name}: labelled messages go with an edge variant and an output `{LABEL}`"
        )
    rows: dict[str, Labelled] = {}
    repeated = 0
    for number, record in enumerate(read_records(path, (text_field, label_field)), start=1):
        text, label = str(record[text_field]), str(record[label_field])
        hashed = input_hash({own: text})
        if hashed in rows:
            repeated += 1
            continue
        _check(feature, {own: text}, f"{path}: record {number}: {text_field}")
        rows[hashed] = Labelled(hashed, text, label)
    if not rows:
        raise DatasetError(f"{path}: there is no record in it")
    return Base(path, _sha256(path), rows, repeated)


def left_of(base: Base | None, without: Collection[str]) -> dict[str, Labelled]:
    """The base's rows but for some inputs, by their hashes."""
    return {hashed: row for hashed, row in base.rows.items() if hashed not in without} if base else {}


def _check(feature: Feature, given: dict[str, Any], place: str) -> None:
    try:
        feature.check_input(given)
    except (InvalidInput, ValueError) as error:
        raise DatasetError(f"{place}: {error}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
