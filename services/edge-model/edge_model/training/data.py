"""Labelled messages: reading, and a stratified hold-out that training never sees."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from trivium.datasets import read_records
from trivium.errors import DatasetError

MIN_PER_LABEL = 2


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled message."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Split:
    """Two disjoint parts of one file."""

    train: list[Example]
    held_out: list[Example]


def read_examples(path: Path, text_field: str, label_field: str) -> list[Example]:
    """Reads a CSV or JSONL file of labelled messages, each text once.

    Raises:
        DatasetError: naming the line and the field that is missing or empty, or the label that has too
            few messages to train on and to hold one back.
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


def stratified_split(examples: list[Example], held_out_share: float, seed: int) -> Split:
    """Holds back the same share of every label (at least one example), with a fixed seed."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    rng = random.Random(seed)
    train: list[Example] = []
    held_out: list[Example] = []
    for label in sorted(by_label):
        rows = sorted(by_label[label], key=lambda example: example.text)
        rng.shuffle(rows)
        cut = max(1, round(len(rows) * held_out_share))
        held_out += rows[:cut]
        train += rows[cut:]
    rng.shuffle(train)
    return Split(train, held_out)
