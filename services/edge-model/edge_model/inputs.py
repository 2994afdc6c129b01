"""From input tensors to rows of token ids: texts, or arrays that the client tokenised itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_model.runtime import Model, Row
from edge_model.tensors import BYTES, Tensor
from trivium.errors import InvalidRequest, TooLarge

_INTEGERS = "INT32 or INT64"


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows of one request, and characters of one text."""

    max_rows: int
    max_characters: int


def characters_in(inputs: list[Tensor]) -> int:
    """Characters of all texts: what tokenising them costs."""
    return sum(len(item) for tensor in inputs if tensor.datatype == BYTES for item in tensor.values)


def rows_of(inputs: list[Tensor], parameters: dict[str, Any], model: Model, limits: Limits) -> list[Row]:
    """The rows that the model is to run, in the order of the request.

    Raises:
        InvalidRequest: naming the input, what it holds and what would be right.
        TooLarge: too many rows, or a text that is too long.
    """
    named = {tensor.name: tensor for tensor in inputs}
    if len(named) < len(inputs):
        raise InvalidRequest("inputs: two have the same name")
    if named.keys() == {"text"}:
        rows = _from_texts(named["text"], model, limits)
    elif "input_ids" in named and named.keys() <= {"input_ids", "attention_mask"}:
        rows = _from_arrays(named["input_ids"], named.get("attention_mask"), model, limits)
    else:
        given = ", ".join(named) or "none"
        raise InvalidRequest(
            f"inputs: {given}; the model takes 'text', or 'input_ids' with or without 'attention_mask'"
        )
    truncate = parameters.get("truncate", True)
    if not isinstance(truncate, bool):
        raise InvalidRequest(f"parameters.truncate: {truncate!r}; it must be true or false")
    if not truncate and (cut := next((at for at, row in enumerate(rows) if row.truncated), None)) is not None:
        raise InvalidRequest(
            f"inputs.text: item {cut} has more than {model.card.max_tokens} tokens, and truncate is false"
        )
    return rows


def _from_texts(tensor: Tensor, model: Model, limits: Limits) -> list[Row]:
    if tensor.datatype != BYTES:
        raise InvalidRequest(f"inputs.text.datatype: {tensor.datatype!r}; it must be BYTES")
    _check_count(len(tensor.values), "text", limits)
    for position, text in enumerate(tensor.values):
        if len(text) > limits.max_characters:
            raise TooLarge(
                f"inputs.text: item {position} has {len(text)} characters, at most {limits.max_characters}"
            )
    return model.encode(tensor.values)


def _from_arrays(ids: Tensor, mask: Tensor | None, model: Model, limits: Limits) -> list[Row]:
    table = _matrix(ids)
    _check_count(len(table), "input_ids", limits)
    ones = np.ones_like(table) if mask is None else _matrix(mask)
    if ones.shape != table.shape:
        raise InvalidRequest(f"inputs.attention_mask.shape: {mask and mask.shape}, input_ids has {ids.shape}")
    lengths = ones.sum(axis=1)
    if not (ones == (np.arange(table.shape[1]) < lengths[:, None])).all():
        raise InvalidRequest("inputs.attention_mask: every row must be ones, then zeros")
    longest = model.card.max_tokens
    if lengths.min() < 1 or lengths.max() > longest:
        raise InvalidRequest(f"inputs.input_ids: every row must have 1 to {longest} tokens")
    if table.min() < 0 or table.max() >= model.vocabulary:
        raise InvalidRequest(f"inputs.input_ids: every id must be from 0 to {model.vocabulary - 1}")
    return [Row(row[:length]) for row, length in zip(table, lengths, strict=True)]


def _matrix(tensor: Tensor) -> NDArray[np.int64]:
    if tensor.datatype not in ("INT32", "INT64"):
        raise InvalidRequest(f"inputs.{tensor.name}.datatype: {tensor.datatype!r}; it must be {_INTEGERS}")
    if len(tensor.shape) != 2:
        raise InvalidRequest(f"inputs.{tensor.name}.shape: {tensor.shape}; it must be [rows, tokens]")
    return np.asarray(tensor.values, dtype=np.int64).reshape(tensor.shape)


def _check_count(found: int, name: str, limits: Limits) -> None:
    if found > limits.max_rows:
        raise TooLarge(f"inputs.{name}: {found} items, at most {limits.max_rows} at once")
