"""From a run's outputs to the tensors that were asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_model.card import Card
from edge_model.runtime import Outputs, Row
from edge_model.tensors import BYTES, Tensor, numbers, strings
from trivium.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """An output that is asked for.

    `binary` says how it travels, None leaves it to the request; `classification` is Triton's extension:
    the k best classes as strings `value:position:label`.
    """

    name: str
    binary: bool | None = None
    classification: int = 0


@dataclass(slots=True)
class _Told:
    card: Card
    rows: list[Row]
    outputs: Outputs
    top_k: int
    order: Any  # int64 [rows, k]: the columns of `probabilities` that are told, in their order


def described(card: Card) -> list[dict[str, Any]]:
    """The outputs as the metadata names them; -1 stands for the number of rows or of classes."""
    return [
        {"name": "label", "datatype": BYTES, "shape": [-1]},
        {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        {"name": "in_scope", "datatype": "FP32", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "labels", "datatype": BYTES, "shape": [-1, -1]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, card.hidden_size]},
        {"name": "tokens", "datatype": "INT32", "shape": [-1]},
        {"name": "truncated", "datatype": "BOOL", "shape": [-1]},
    ]


def check_names(asked: list[Asked]) -> None:
    """Raises InvalidRequest if an output is asked for that there is not."""
    for output in asked:
        if output.name not in _MAKERS:
            raise InvalidRequest(f"outputs: {output.name!r}; there are {', '.join(_MAKERS)}")


def chosen(
    asked: list[Asked], parameters: dict[str, Any], card: Card, rows: list[Row], outputs: Outputs
) -> list[Tensor]:
    """The tensors, in the order in which they were asked for; all of them if none is named."""
    top_k = top_k_of(parameters, card)
    told = _Told(card, rows, outputs, top_k, _columns(outputs, top_k))
    tensors = []
    for output in asked or [Asked(name) for name in _MAKERS]:
        if output.classification:
            tensors.append(_classes(output, told))
        else:
            tensors.append(_MAKERS[output.name](told))
    return tensors


def top_k_of(parameters: dict[str, Any], card: Card) -> int:
    """The parameter `top_k`; 0 if it is not given. Raises InvalidRequest."""
    top_k = parameters.get("top_k", 0)
    if "top_k" in parameters and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise InvalidRequest(f"parameters.top_k: {top_k!r}; a whole number from 1 to {len(card.labels)}")
    return min(int(top_k), len(card.labels))


def _columns(outputs: Outputs, top_k: int) -> Any:
    if not top_k:
        return None
    return np.argsort(-outputs.probabilities, axis=1, kind="stable")[:, :top_k]


def _label(told: _Told) -> Tensor:
    best = told.outputs.probabilities.argmax(axis=1)
    return strings("label", [told.card.labels[position] for position in best])


def _probabilities(told: _Told) -> Tensor:
    values = told.outputs.probabilities
    if told.order is not None:
        values = np.take_along_axis(values, told.order, axis=1)
    return numbers("probabilities", "FP32", values)


def _labels(told: _Told) -> Tensor:
    if told.order is None:
        shape = [len(told.rows), len(told.card.labels)]
        return strings("labels", told.card.labels * len(told.rows), shape)
    names = [told.card.labels[position] for position in told.order.reshape(-1)]
    return strings("labels", names, list(told.order.shape))


_MAKERS: dict[str, Callable[[_Told], Tensor]] = {
    "label": _label,
    "confidence": lambda told: numbers("confidence", "FP32", told.outputs.probabilities.max(axis=1)),
    "in_scope": lambda told: numbers("in_scope", "FP32", told.outputs.in_scope),
    "probabilities": _probabilities,
    "labels": _labels,
    "embedding": lambda told: numbers("embedding", "FP32", told.outputs.embedding),
    "tokens": lambda told: numbers("tokens", "INT32", np.array([len(row.ids) for row in told.rows])),
    "truncated": lambda told: numbers("truncated", "BOOL", np.array([row.truncated for row in told.rows])),
}


def _classes(asked: Asked, told: _Told) -> Tensor:
    if asked.name != "probabilities":
        raise InvalidRequest(f"outputs.{asked.name}: classification is for 'probabilities'")
    values, labels = told.outputs.probabilities, told.card.labels
    order = _columns(told.outputs, min(asked.classification, len(labels)))
    lines = [
        f"{values[row, position]:.6f}:{position}:{labels[position]}"
        for row, positions in enumerate(order)
        for position in positions
    ]
    return Tensor(asked.name, BYTES, list(order.shape), lines)
