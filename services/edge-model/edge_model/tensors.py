"""Tensors on the wire: the protocol's datatypes, as JSON and as bytes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.errors import InvalidRequest

BYTES = "BYTES"
NUMBERS: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_LENGTH = struct.Struct("<I")
_KINDS = {"b": "b", "u": "ui", "i": "ui", "f": "uif"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array: `values` are numbers of the datatype's own type, or for BYTES strings, flat."""

    name: str
    datatype: str
    shape: list[int]
    values: Any


def strings(name: str, values: list[str], shape: list[int] | None = None) -> Tensor:
    """A BYTES tensor; `shape` is by default a vector's."""
    return Tensor(name, BYTES, shape or [len(values)], values)


def numbers(name: str, datatype: str, values: NDArray[Any]) -> Tensor:
    """A tensor of numbers, with the array's shape."""
    flat = np.ascontiguousarray(values, dtype=NUMBERS[datatype]).reshape(-1)
    return Tensor(name, datatype, list(values.shape), flat)


def from_json(name: str, datatype: str, shape: list[int], data: list[Any]) -> Tensor:
    """Reads a tensor's `data`, flat or nested.

    Raises:
        InvalidRequest: naming the field, what it holds and what would be right.
    """
    kind = _known(name, datatype)
    if kind is None:
        values: Any = list(_flat(data))
        for value in values:
            if not isinstance(value, str):
                raise InvalidRequest(f"inputs.{name}.data: every item must be a string, not {value!r}")
    else:
        values = _numbers(name, datatype, data)
    return Tensor(name, datatype, _checked(name, shape, len(values)), values)


def from_raw(name: str, datatype: str, shape: list[int], raw: bytes | memoryview) -> Tensor:
    """Reads a tensor from little-endian bytes; BYTES items have a length of four bytes before them.

    Raises:
        InvalidRequest: naming the field, what it holds and what would be right.
    """
    kind = _known(name, datatype)
    if kind is None:
        values: Any = list(_items(name, memoryview(raw)))
        return Tensor(name, datatype, _checked(name, shape, len(values)), values)
    size = np.dtype(kind).itemsize
    if len(raw) % size:
        raise InvalidRequest(f"inputs.{name}: {len(raw)} bytes are not a multiple of {datatype}'s {size}")
    values = np.frombuffer(raw, dtype=kind)
    return Tensor(name, datatype, _checked(name, shape, len(values)), values)


def to_raw(tensor: Tensor) -> bytes:
    """The little-endian bytes of a tensor."""
    if tensor.datatype != BYTES:
        array: NDArray[Any] = tensor.values
        return array.tobytes()
    parts = []
    for value in tensor.values:
        item = value.encode()
        parts += [_LENGTH.pack(len(item)), item]
    return b"".join(parts)


def _known(name: str, datatype: str) -> Any:
    """The numpy type of a datatype; None for BYTES."""
    if datatype == BYTES:
        return None
    if datatype not in NUMBERS:
        known = ", ".join([BYTES, *NUMBERS])
        raise InvalidRequest(f"inputs.{name}.datatype: {datatype!r}; it must be one of {known}")
    return NUMBERS[datatype]


def _checked(name: str, shape: list[int], found: int) -> list[int]:
    if not shape or min(shape) < 1 or prod(shape) != found:
        raise InvalidRequest(f"inputs.{name}.shape: {shape} does not hold {found} items")
    return shape


def _numbers(name: str, datatype: str, data: list[Any]) -> NDArray[Any]:
    kind = np.dtype(NUMBERS[datatype])
    try:
        given = np.array(list(_flat(data)))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"inputs.{name}.data: not an array of numbers: {error}") from error
    if given.size and given.dtype.kind not in _KINDS[kind.kind]:
        raise InvalidRequest(f"inputs.{name}.data: every item must be a {datatype}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = given.astype(kind)
    if kind.kind in "ui" and not (values == given).all():
        raise InvalidRequest(f"inputs.{name}.data: an item does not fit into {datatype}")
    return values


def _items(name: str, raw: memoryview) -> Iterator[str]:
    at = 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise InvalidRequest(f"inputs.{name}: the length at byte {at} is cut off")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + length > len(raw):
            raise InvalidRequest(f"inputs.{name}: an item of {length} bytes at byte {at} is cut off")
        yield decoded(name, raw[at : at + length])
        at += length


def decoded(name: str, item: bytes | memoryview) -> str:
    """The text of a BYTES item. Raises InvalidRequest if it is not UTF-8."""
    try:
        return str(item, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"inputs.{name}: an item is not UTF-8: {error}") from error


def _flat(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item
