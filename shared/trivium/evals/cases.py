"""The fixed dataset of a feature: what is asked, what is right, and what kind of case it is."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trivium.datasets import read_records
from trivium.errors import DatasetError, InvalidInput
from trivium.features import Feature

Slice = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What a case asks."""

    input: dict[str, Any]
    entity_key: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a variant answered: milliseconds, and USD or None where the price is not known."""

    output: dict[str, Any]
    confidence: float | None
    model: str | None
    latency_ms: float
    cost_usd: float | None


class Case(BaseModel):
    """One line of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=128)
    input: dict[str, Any] = {}
    entity_key: str | None = None
    expected: dict[str, Any]
    slices: dict[str, Slice] = {}

    @property
    def asked(self) -> Asked:
        """What is asked."""
        return Asked(self.input, self.entity_key)


@dataclass(frozen=True, slots=True)
class Golden:
    """A dataset as it was read; `sha256` is that of its bytes."""

    path: Path
    sha256: str
    cases: Sequence[Case]


def load_cases(feature: Feature) -> Golden:
    """Reads the dataset that a feature's manifest names.

    Raises:
        DatasetError: a line is no case, its input does not match the feature's schema, or two cases have
            one id; the message names file and line.
    """
    path = feature.folder / feature.manifest.evaluation.dataset
    cases: dict[str, Case] = {}
    lines: dict[str, int] = {}
    if path.suffix != ".jsonl":
        raise DatasetError(f"{path}: a dataset of cases is a .jsonl file")
    for record, number in zip(read_records(path), _numbers(path), strict=True):
        case = _case(feature, f"{path}:{number}", record)
        if case.id in cases:
            raise DatasetError(f"{path}:{number}: id {case.id!r} stands in line {lines[case.id]} already")
        cases[case.id], lines[case.id] = case, number
    if not cases:
        raise DatasetError(f"{path}: there is no case in it")
    return Golden(path, hashlib.sha256(path.read_bytes()).hexdigest(), list(cases.values()))


def _numbers(path: Path) -> Iterator[int]:
    """The line that each record stands in, by the same reading as theirs."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from (number for number, line in enumerate(lines, start=1) if line.strip())


def _case(feature: Feature, place: str, record: dict[str, Any]) -> Case:
    try:
        case = Case.model_validate(record)
        feature.check_input(case.input)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DatasetError(f"{place}: {told}") from error
    except InvalidInput as error:
        raise DatasetError(f"{place}: {error.detail}") from error
    return case
