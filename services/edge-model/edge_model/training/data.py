"""Labelled messages: reading, and a stratified split into three parts."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.datasets import read_records
from trivium.errors import DatasetError

MIN_PER_LABEL = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled message."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts of one file.

    The weights are fitted to `train`, the temperature and the scope threshold to `validation`, and
    nothing to `held_out`: it gives the figures and decides the gates.
    """

    train: list[Example]
    validation: list[Example]
    held_out: list[Example]


def read_examples(path: Path, text_field: str, label_field: str) -> list[Example]:
    """Reads a CSV or JSONL file of labelled messages, each text once.

    Raises:
        DatasetError: naming the line and the field that is missing or empty, or the label that has too
            few messages to train on and to hold back.
    """
    seen: dict[str, Example] = {}
    for record in read_records(path, required=(text_field, label_field)):
        text = " ".join(str(record[text_field]).split())
        seen.setdefault(text.casefold(), Example(text, str(record[label_field])))
    counts = Counter(example.label for example in seen.values())
    if len(counts) < 2:
        raise DatasetError(f"{path}: {len(counts)} labels in {len(seen)} messages; at least two are needed")
    for label, count in counts.items():
        if count < MIN_PER_LABEL:
            raise DatasetError(f"{path}: {count} messages of {label!r}; at least {MIN_PER_LABEL} are needed")
    return list(seen.values())


def read_texts(path: Path, text_field: str) -> list[str]:
    """Reads the texts of a CSV or JSONL file, labelled or not, or of a JSON file of lists.

    In a `.json` file a text is a string in a list, or the first of a `[text, label]` pair; lists may
    stand under names.

    Raises:
        DatasetError: there is no text, the file does not read, or a line lacks the field.
    """
    if path.suffix == ".json":
        try:
            texts = list(_texts_in(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: {error}") from error
    else:
        texts = [str(record[text_field]) for record in read_records(path, required=(text_field,))]
    if not texts:
        raise DatasetError(f"{path}: there is no message in it")
    return texts


def _texts_in(value: Any) -> Iterator[str]:
    if not isinstance(value, list | dict):
        raise ValueError(f"a {type(value).__name__} where a text or a list is wanted")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, str):
            yield item
        elif isinstance(item, list) and item and all(isinstance(part, str) for part in item):
            yield item[0]
        else:
            yield from _texts_in(item)


def stratified_split(
    examples: list[Example], validation_share: float, held_out_share: float, seed: int
) -> Split:
    """Takes the same shares of every label (at least one message each), with a fixed seed."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    rng = random.Random(seed)
    split = Split([], [], [])
    for label in sorted(by_label):
        rows = sorted(by_label[label], key=lambda example: example.text)
        rng.shuffle(rows)
        held_out = max(1, round(len(rows) * held_out_share))
        validation = held_out + max(1, round(len(rows) * validation_share))
        split.held_out.extend(rows[:held_out])
        split.validation.extend(rows[held_out:validation])
        split.train.extend(rows[validation:])
    rng.shuffle(split.train)
    return split
