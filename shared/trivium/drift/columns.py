"""Columns of observations: what is looked at, as compact arrays that can be stored without the texts."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.drift.text import hash_of_word, words

Rows = NDArray[np.int64]
Matrix = NDArray[np.float32]
STEP = np.float32(0.004)
"""Of what vectors consist of, ±0.508 at most: a byte each. A reference and a window are rounded alike."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number of each of some rows."""

    rows: Rows
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Labels:
    """A label of each of some rows: a place in `names`."""

    rows: Rows
    codes: Rows
    names: list[str]

    @property
    def values(self) -> list[str]:
        """The label of each row."""
        return [self.names[code] for code in self.codes]


@dataclass(frozen=True, slots=True)
class Words:
    """The hashed words of some rows: those of the row at place n are hashes[starts[n]:starts[n + 1]].

    `names` are the words themselves by their hash; they are not stored.
    """

    rows: Rows
    starts: Rows
    hashes: NDArray[np.uint32]
    names: dict[int, str] = field(default_factory=dict)

    @property
    def places(self) -> Rows:
        """For each hash the place of its row."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Vectors:
    """A vector of each of some rows, [rows, hidden], in steps of STEP."""

    rows: Rows
    matrix: Matrix
    model: str


Column = Numbers | Labels | Words | Vectors


@dataclass(frozen=True, slots=True)
class Profile:
    """Columns of `len(groups)` rows; rows of one group are one subject's.

    `absent` says why a column is not there, `reasons` how often something else answered, and why; these are
    not stored.
    """

    groups: NDArray[np.uint64]
    columns: dict[str, Column]
    absent: dict[str, str]
    reasons: dict[str, int] = field(default_factory=dict)


def labels_of(rows: Sequence[int], values: Sequence[str]) -> Labels:
    """Labels from their names."""
    names = sorted(set(values))
    place = {name: code for code, name in enumerate(names)}
    return Labels(np.asarray(rows, np.int64), np.asarray([place[v] for v in values], np.int64), names)


def words_of(rows: Sequence[int], texts: Sequence[str]) -> Words:
    """The hashed words of texts."""
    names: dict[int, str] = {}
    found = []
    for text in texts:
        said = words(text)
        hashes = [hash_of_word(word) for word in said]
        names |= zip(hashes, said, strict=True)
        found.append(hashes)
    starts = np.cumsum([0, *map(len, found)])
    every = np.asarray([one for some in found for one in some], dtype=np.uint32)
    return Words(np.asarray(rows, np.int64), starts.astype(np.int64), every, names)


def vectors_of(rows: Sequence[int], matrix: Matrix, model: str) -> Vectors:
    """Vectors of unit length, rounded."""
    steps = np.clip(np.rint(matrix / STEP), -127, 127)
    return Vectors(np.asarray(rows, np.int64), np.asarray(steps * STEP, np.float32), model)


def packed(profile: Profile) -> dict[str, Any]:
    """As JSON; arrays in base64."""
    columns = {name: _packed_column(column) for name, column in profile.columns.items()}
    return {"groups": _pack(profile.groups, "<u8"), "columns": columns}


def unpacked(given: dict[str, Any]) -> Profile:
    """What `packed` made JSON of."""
    columns = {name: _unpacked_column(column) for name, column in given["columns"].items()}
    return Profile(_unpack(given["groups"], "<u8"), columns, {})


def _packed_column(column: Column) -> dict[str, Any]:
    rows = _pack(column.rows, "<i4")
    match column:
        case Numbers():
            return {"kind": "numbers", "rows": rows, "values": _pack(column.values, "<f8")}
        case Labels():
            codes = _pack(column.codes, "<i4")
            return {"kind": "labels", "rows": rows, "codes": codes, "names": column.names}
        case Words():
            hashes = _pack(column.hashes, "<u4")
            return {"kind": "words", "rows": rows, "starts": _pack(column.starts, "<i4"), "hashes": hashes}
        case Vectors():
            steps, hidden = _pack(np.rint(column.matrix / STEP), "<i1"), column.matrix.shape[1]
            return {"kind": "vectors", "rows": rows, "hidden": hidden, "steps": steps, "model": column.model}


def _unpacked_column(given: dict[str, Any]) -> Column:
    rows = _unpack(given["rows"], "<i4").astype(np.int64)
    match given["kind"]:
        case "numbers":
            return Numbers(rows, _unpack(given["values"], "<f8"))
        case "labels":
            return Labels(rows, _unpack(given["codes"], "<i4").astype(np.int64), given["names"])
        case "words":
            starts = _unpack(given["starts"], "<i4").astype(np.int64)
            return Words(rows, starts, _unpack(given["hashes"], "<u4"))
        case _:
            steps = _unpack(given["steps"], "<i1").reshape(-1, given["hidden"])
            return Vectors(rows, steps.astype(np.float32) * STEP, given["model"])


def _pack(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(dtype)).tobytes()).decode()


def _unpack(given: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(given), dtype=np.dtype(dtype))
