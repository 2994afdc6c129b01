"""How errors and keys look in a service's OpenAPI document."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

_JSON, _PROBLEM_JSON = "application/json", "application/problem+json"
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, or the service key."},
    "browser": {"type": "http", "scheme": "basic", "description": "The key as the password."},
}
_REQUEST_ID = {
    "description": "The caller's own, if it is up to 128 letters, digits or `._:-`; else a new one.",
    "required": True,
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"description": "Seconds until it is worth another try.", "schema": {"type": "string"}}
_CHALLENGE = {"description": "How to send a key.", "required": True, "schema": {"type": "string"}}
_HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": _CHALLENGE},
    **{status: {"Retry-After": _RETRY_AFTER} for status in ("202", "429", "503")},
}
Responses = dict[int | str, dict[str, Any]]


class Fault(BaseModel):
    """One field that is wrong."""

    field: str
    message: str
    value: Any = None


class Problem(BaseModel):
    """RFC 9457, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[Fault] = Field([], description="Each field that is wrong.")


def problem(description: str) -> dict[str, Any]:
    """A response that is a Problem, for `responses=`."""
    return {"model": Problem, "description": description}


def describe(app: FastAPI, open_paths: Iterable[str] = ()) -> None:
    """Makes the document say what no route can: media types of errors, headers, which paths need a key."""
    made, opened = app.openapi, frozenset(open_paths)

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            found = made()
            found.setdefault("components", {})["securitySchemes"] = _SCHEMES
            found["security"] = [{name: []} for name in _SCHEMES]
            for path, operations in found["paths"].items():
                for operation in operations.values():
                    _describe(operation)
                    if path in opened:
                        operation["security"] = []
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _describe(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if content.get(_JSON, {}).get("schema", {}).get("$ref", "").endswith(f"/{Problem.__name__}"):
            content[_PROBLEM_JSON] = content.pop(_JSON)
        response["headers"] = {"X-Request-Id": _REQUEST_ID, **_HEADERS.get(status, {})}
