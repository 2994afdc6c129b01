"""Bodies of the Open Inference Protocol's REST: JSON, with binary tensors behind it if asked for."""

import zlib
from typing import Any

import orjson
from pydantic import BaseModel, Field, ValidationError

from edge_model.inference import Answer, Inference
from edge_model.outputs import Asked
from edge_model.tensors import Tensor, from_json, from_raw, to_raw
from trivium.errors import InvalidRequest, MalformedBody, TooLarge

_WINDOWS = {b"gzip": 31, b"deflate": 47}  # 47: zlib's own header or gzip's, whichever there is
Parameters = dict[str, Any]


class _TensorIn(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters | None = None


class _OutputIn(BaseModel):
    name: str
    parameters: Parameters | None = None


class InferBody(BaseModel):
    """The JSON of `…/infer`. Unknown keys are passed over: clients send some of their own."""

    id: str | None = None
    inputs: list[_TensorIn] = Field(min_length=1)
    outputs: list[_OutputIn] | None = None
    parameters: Parameters | None = None


def inflated(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A body as it was before its `Content-Encoding`, up to `max_bytes`.

    Raises:
        MalformedBody: unknown encoding, or not what it says. TooLarge: more than `max_bytes`.
    """
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOWS:
        raise MalformedBody(f"Content-Encoding: {encoding.decode(errors='replace')!r}; gzip or deflate")
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedBody(f"the body is not {encoding.decode()}: {error}") from error
    if len(whole) > max_bytes:
        raise TooLarge(f"the body is over {max_bytes} bytes once decompressed")
    if not stream.eof:
        raise MalformedBody(f"the {encoding.decode()} stream is cut off")
    return whole


def parsed(raw: bytes, header_length: bytes | None, model: str, version: str | None) -> Inference:
    """The request in a body.

    Args:
        raw: the body.
        header_length: `Inference-Header-Content-Length`, None if the body is all JSON.
        model: the model's name in the path.
        version: its version in the path.

    Raises:
        MalformedBody: not JSON. InvalidRequest: a field is wrong.
    """
    head, tail = _cut(raw, header_length)
    try:
        body = InferBody.model_validate_json(head)
    except ValidationError as error:
        raise _told(error) from error
    binary = memoryview(tail)
    inputs = []
    at = 0
    for tensor in body.inputs:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            inputs.append(_from_json(tensor))
            continue
        if not isinstance(size, int) or size < 0 or at + size > len(binary):
            raise InvalidRequest(
                f"inputs.{tensor.name}.parameters.binary_data_size: {size!r}; "
                f"{len(binary) - at} bytes are left"
            )
        inputs.append(from_raw(tensor.name, tensor.datatype, tensor.shape, binary[at : at + size]))
        at += size
    if at < len(binary):
        raise InvalidRequest(f"{len(binary) - at} bytes behind the JSON belong to no input")
    parameters = body.parameters or {}
    asked = [_asked(output) for output in body.outputs or []]
    return Inference(model, version, inputs, body.id, asked, parameters)


def answered(asked: Inference, answer: Answer) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON if binary tensors follow it."""
    as_binary = asked.parameters.get("binary_data_output", False) is True
    wanted = {output.name: output.binary for output in asked.outputs}
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for tensor in answer.outputs:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        binary = wanted.get(tensor.name)
        if as_binary if binary is None else binary:
            chunks.append(to_raw(tensor))
            told["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            told["data"] = tensor.values
        outputs.append(told)
    body: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version, "outputs": outputs}
    if answer.id is not None:
        body["id"] = answer.id
    head = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *chunks]), len(head)) if chunks else (head, None)


def _cut(raw: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return raw, b""
    if not header_length.isdigit() or int(header_length) > len(raw):
        said = header_length.decode(errors="replace")
        raise MalformedBody(f"Inference-Header-Content-Length: {said!r} of a body of {len(raw)} bytes")
    return raw[: int(header_length)], raw[int(header_length) :]


def _from_json(tensor: _TensorIn) -> Tensor:
    if tensor.data is None:
        raise InvalidRequest(f"inputs.{tensor.name}: it has neither data nor a binary_data_size")
    return from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)


def _asked(output: _OutputIn) -> Asked:
    parameters = output.parameters or {}
    binary, classes = parameters.get("binary_data"), parameters.get("classification", 0)
    where = f"outputs.{output.name}.parameters"
    if binary is not None and not isinstance(binary, bool):
        raise InvalidRequest(f"{where}.binary_data: {binary!r}; it must be true or false")
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise InvalidRequest(f"{where}.classification: {classes!r}; it must be a whole number")
    return Asked(output.name, binary, classes)


def _told(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody(f"the body is not JSON: {first['ctx']['error']}")
    where = ".".join(map(str, first["loc"])) or "body"
    given = "" if first["type"] == "missing" else f", not {str(first['input'])[:100]!r}"
    return InvalidRequest(f"{where}: {first['msg']}{given}")
