"""What stands in a version's files, from examples that are chosen and split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from trivium.corrections.evidence import LABEL, compared_fields
from trivium.corrections.sources import Base, Golden, Labelled, text_field_of
from trivium.corrections.versions import EVAL, LINEAGE, TRAIN, Row, SourceFile, lines_of
from trivium.domain.corrections import Example
from trivium.domain.sameness import Side
from trivium.features import Feature

BASE = "base"
LEAST_OF_A_LABEL = 3
"""What the trainer demands."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a version is made; `since` in Unix seconds."""

    since: float | None = None
    min_agree: int = 1
    eval_share: float = 0.2
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class Composition:
    """Examples with their sides, and the rows of the base that are trained on beside them."""

    feature: Feature
    golden: Golden
    options: Options
    examples: Mapping[str, Example]
    base: Mapping[str, Labelled]
    split: Mapping[str, Side]

    def texts(self) -> dict[str, str]:
        """The three files, in an order that depends on nothing but what is in them."""
        text_field = text_field_of(self.feature) or ""
        fields = compared_fields(self.feature)
        train: dict[str, Row] = {}
        lineage: dict[str, Row] = {}
        for hashed, row in self.base.items():
            train[hashed] = {"input_hash": hashed, text_field: row.text, LABEL: row.label}
            lineage[hashed] = {"input_hash": hashed, "split": "train", "kind": BASE}
        cases: dict[str, Row] = {}
        for hashed, example in self.examples.items():
            right = {name: example.output[name] for name in fields if name in example.output}
            lineage[hashed] = {"split": self.split[hashed], **asdict(example)}
            if self.split[hashed] == "train":
                train[hashed] = flat_row(example, right or example.output)
            else:
                cases[hashed] = case_row(example, right or example.output)
        parts = {TRAIN: train, EVAL: cases, LINEAGE: lineage}
        return {name: lines_of(rows[h] for h in sorted(rows)) for name, rows in parts.items()}

    def warnings(self, before: Mapping[str, Side]) -> list[str]:
        """What whoever builds it should know; `before` are the sides in earlier versions."""
        found = []
        if trained := sum(before.get(hashed) == "train" for hashed in self.golden.hashes):
            found.append(
                f"{trained} inputs of {self.golden.path} stand in the train part of an earlier version: "
                "they judge a model that was trained on it too well"
            )
        shared = self.base.keys() & self.examples.keys()
        if other := sum(self.examples[h].output.get(LABEL) != self.base[h].label for h in shared):
            found.append(f"{other} labels of the base were replaced by what users say is right")
        rare = [label for label, count in self._labels().items() if count < LEAST_OF_A_LABEL]
        if rare:
            found.append(
                f"the trainer refuses labels with fewer than {LEAST_OF_A_LABEL} examples to train on: "
                f"{', '.join(sorted(rare))}"
            )
        return found

    def facts(self, parent: int | None, left_out: dict[str, int]) -> dict[str, Any]:
        """What the card says, but for what the files themselves say."""
        counts: dict[str, Counter[str]] = {"train": Counter(), "eval": Counter()}
        for hashed, example in self.examples.items():
            counts[self.split[hashed]][example.kind] += 1
        only_base = len(self.base.keys() - self.examples.keys())
        if only_base:
            counts["train"][BASE] = only_base
        golden, base = self.golden, self.options.base
        return {
            "parent": parent,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "counts": {side: dict(sorted(found.items())) for side, found in counts.items()},
            "left_out": left_out,
            "variants": sorted({name for example in self.examples.values() for name in example.variants}),
            "labels": dict(sorted(self._labels().items())),
            "golden": SourceFile(path=golden.path, sha256=golden.sha256, lines=golden.lines),
            "base": SourceFile(path=base.path.name, sha256=base.sha256, lines=only_base) if base else None,
            "eval_share": self.options.eval_share,
            "min_agree": self.options.min_agree,
            "since": self.options.since,
            "text_field": text_field_of(self.feature),
            "label_field": LABEL if compared_fields(self.feature) else None,
        }

    def _labels(self) -> Counter[str]:
        """How often each label is trained on; empty where there are none."""
        if not compared_fields(self.feature):
            return Counter()
        found = Counter(row.label for h, row in self.base.items() if h not in self.examples)
        found.update(str(ex.output[LABEL]) for h, ex in self.examples.items() if self.split[h] == "train")
        return found


def flat_row(example: Example, right: Mapping[str, Any]) -> Row:
    """A line to train on: the input's properties beside the output's, one that both have as `right_…`."""
    asked = {**example.input, **({"entity_key": example.entity_key} if example.entity_key else {})}
    taken = {"input_hash", *asked}
    outputs = {f"right_{name}" if name in taken else name: value for name, value in right.items()}
    return {**asked, **outputs, "input_hash": example.input_hash}


def case_row(example: Example, right: Mapping[str, Any]) -> Row:
    """A line to evaluate on, as in a golden set."""
    key = {} if example.entity_key is None else {"entity_key": example.entity_key}
    return {"id": example.input_hash, "input": example.input, **key, "expected": dict(right)}
