"""How the REST endpoints look in the OpenAPI document; `…/infer` is served before the application's own."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from edge_model.doors.body import InferBody
from trivium.openapi import Responses, describe

_REFERENCE = "#/components/schemas/{model}"
_EXAMPLE = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Where is my card?"]}]}
_SHAPE = Field(description="-1 stands for the number of rows, of tokens or of classes.")


class ErrorOut(BaseModel):
    """The protocol's shape of an error."""

    error: str


class TensorOut(BaseModel):
    """A tensor of a model's metadata."""

    name: str
    datatype: str
    shape: list[int] = _SHAPE


class ModelOut(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorOut]
    outputs: list[TensorOut]


class ModelReadyOut(BaseModel):
    """A model that serves."""

    name: str
    ready: bool


class IndexOut(BaseModel):
    """A version in the registry."""

    name: str
    version: str
    state: str = Field(description="READY or UNAVAILABLE.")
    reason: str


class ServerOut(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class _OutputOut(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] = Field([], description="Absent where it follows the JSON as bytes.")


class InferOut(BaseModel):
    """The outputs that were asked for."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[_OutputOut]


def told(**statuses: str) -> Responses:
    """Errors by their status, written `_404=…`, for `responses=`."""
    return {
        int(status.removeprefix("_")): {"model": ErrorOut, "description": text}
        for status, text in statuses.items()
    }


KEYED = told(_401="No service key.", _413="The body is too large.")
NAMED = told(_404="No such model or version.")
_INFER = {
    "400": "Malformed, or a field is wrong: which, and what would be right.",
    "401": "No service key.",
    "404": "No such model or version.",
    "413": "The body, a text or the number of rows is too large.",
    "503": "Refused at once: the line is too long. Retry-After says when to come again.",
    "504": "The deadline passed, or is too near for a run.",
}


def describe_infer(app: FastAPI, open_paths: list[str]) -> None:
    """Adds `…/infer` to the application's document, and what it says of keys and headers."""

    def document() -> dict[str, Any]:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for model in (InferBody, InferOut, ErrorOut):
            schema = model.model_json_schema(ref_template=_REFERENCE)
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
            made["paths"][path] = {"post": _infer_operation("version" in path)}
        return made

    app.openapi = document  # type: ignore[method-assign]
    describe(app, open_paths)


def _infer_operation(versioned: bool) -> dict[str, Any]:
    names = ["model", "version"] if versioned else ["model"]
    answer = {
        "description": "The outputs that were asked for; as bytes behind the JSON where that was asked.",
        "content": {"application/json": {"schema": _named(InferOut)}, "application/octet-stream": {}},
    }
    refused = {
        status: {"description": text, "content": {"application/json": {"schema": _named(ErrorOut)}}}
        for status, text in _INFER.items()
    }
    body = {"schema": _named(InferBody), "example": _EXAMPLE}
    return {
        "tags": ["Open Inference Protocol"],
        "summary": "Runs a model",
        "operationId": "infer_version" if versioned else "infer",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": answer, **refused},
    }


def _named(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
