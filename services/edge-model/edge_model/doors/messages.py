"""gRPC's messages, read and written: typed contents or raw bytes."""

from typing import Any

from edge_model.doors import open_inference_pb2 as pb
from edge_model.inference import Answer, Inference
from edge_model.outputs import Asked
from edge_model.tensors import BYTES, Tensor, decoded, from_json, from_raw, to_raw
from trivium.errors import InvalidRequest

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def asked_of(request: Any) -> Inference:
    """The request in a ModelInferRequest.

    Raises:
        InvalidRequest: naming the field, what it holds and what would be right.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs")
    inputs = [
        from_raw(tensor.name, tensor.datatype, list(tensor.shape), raw[position]) if raw else _typed(tensor)
        for position, tensor in enumerate(request.inputs)
    ]
    outputs = [
        Asked(output.name, classification=_classes(output.name, _parameters(output.parameters)))
        for output in request.outputs
    ]
    return Inference(
        request.model_name,
        request.model_version or None,
        inputs,
        request.id or None,
        outputs,
        _parameters(request.parameters),
    )


def answered(answer: Answer, raw: bool) -> Any:
    """The ModelInferResponse; raw bytes answer raw bytes."""
    response = pb.ModelInferResponse(
        model_name=answer.model, model_version=answer.version, id=answer.id or ""
    )
    for tensor in answer.outputs:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(to_raw(tensor))
            continue
        values = (
            [value.encode() for value in tensor.values]
            if tensor.datatype == BYTES
            else tensor.values.tolist()
        )
        getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return response


def _typed(tensor: Any) -> Tensor:
    field = _CONTENTS.get(tensor.datatype)
    values = list(getattr(tensor.contents, field)) if field else []
    if tensor.datatype == BYTES:
        values = [decoded(tensor.name, value) for value in values]
    return from_json(tensor.name, tensor.datatype, list(tensor.shape), values)


def _parameters(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, kind)
        for name, value in parameters.items()
        if (kind := value.WhichOneof("parameter_choice"))
    }


def _classes(name: str, parameters: dict[str, Any]) -> int:
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or classes < 0:
        raise InvalidRequest(f"outputs.{name}.classification: {classes!r}; it must be a whole number")
    return classes
