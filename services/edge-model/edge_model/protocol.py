"""The Open Inference Protocol (KServe v2), REST: what is asked, what is answered."""

from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_model.card import Card
from edge_model.runtime import Outputs
from trivium.errors import InvalidRequest, MalformedBody

_BYTES, _FP32 = "BYTES", "FP32"


class TensorIn(BaseModel):
    """An input tensor; its data may be flat or nested."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class OutputIn(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The body of `…/infer`."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    inputs: list[TensorIn] = Field(min_length=1)
    outputs: list[OutputIn] = []
    parameters: dict[str, Any] = {}


DEFAULT_OUTPUTS = ("label", "confidence")


def metadata(card: Card, versions: list[str]) -> dict[str, Any]:
    """The model's metadata: -1 stands for the number of texts."""
    return {
        "name": card.name,
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "text", "datatype": _BYTES, "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": _BYTES, "shape": [-1]},
            {"name": "confidence", "datatype": _FP32, "shape": [-1]},
            {"name": "probabilities", "datatype": _FP32, "shape": [-1, len(card.labels)]},
            {"name": "embedding", "datatype": _FP32, "shape": [-1, card.hidden_size]},
        ],
        "parameters": {"labels": card.labels, "max_tokens": card.max_tokens},
    }


def parse(raw: bytes, card: Card, max_texts: int) -> tuple[InferRequest, list[str]]:
    """The request, and its texts.

    Raises:
        MalformedBody: not JSON. InvalidRequest: a field is wrong.
    """
    try:
        request = InferRequest.model_validate(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where}: {first['msg']}") from error
    known = {output["name"] for output in metadata(card, [])["outputs"]}
    for asked in request.outputs:
        if asked.name not in known:
            raise InvalidRequest(f"outputs: {asked.name!r}; there are {', '.join(sorted(known))}")
    return request, _texts(request, max_texts)


def answer(request: InferRequest, card: Card, outputs: Outputs) -> bytes:
    """The body of the response, in the order the outputs were asked for."""
    names = [asked.name for asked in request.outputs] or list(DEFAULT_OUTPUTS)
    body: dict[str, Any] = {"model_name": card.name, "model_version": card.version}
    if request.id is not None:
        body["id"] = request.id
    body["outputs"] = [_tensor(name, outputs) for name in names]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(request: InferRequest, max_texts: int) -> list[str]:
    tensors = {tensor.name: tensor for tensor in request.inputs}
    text = tensors.get("text")
    if text is None or len(tensors) > 1:
        raise InvalidRequest(f"inputs: {', '.join(tensors)}; the model takes one, 'text'")
    if text.datatype != _BYTES:
        raise InvalidRequest(f"inputs.text.datatype: {text.datatype!r}; it must be BYTES")
    data = [item for row in text.data for item in (row if isinstance(row, list) else [row])]
    if not all(isinstance(item, str) for item in data):
        raise InvalidRequest("inputs.text.data: every item must be a string")
    if not text.shape or not data or min(text.shape) < 1 or int(np.prod(text.shape)) != len(data):
        raise InvalidRequest(f"inputs.text.shape: {text.shape} for {len(data)} texts")
    if len(data) > max_texts:
        raise InvalidRequest(f"inputs.text: {len(data)} texts, at most {max_texts} at once")
    return data


def _tensor(name: str, outputs: Outputs) -> dict[str, Any]:
    if name == "label":
        return {"name": name, "datatype": _BYTES, "shape": [len(outputs.labels)], "data": outputs.labels}
    values = np.ascontiguousarray(getattr(outputs, name), dtype=np.float32)
    return {"name": name, "datatype": _FP32, "shape": list(values.shape), "data": values.ravel()}
