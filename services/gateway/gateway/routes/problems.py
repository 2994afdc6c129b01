"""How errors look, for the OpenAPI document."""

from typing import Any

from pydantic import BaseModel


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
    errors: list[Fault] = []


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The body is not JSON."),
    401: _problem("No key, or not a valid one."),
    403: _problem("The key lacks the scope."),
    404: _problem("There is no such thing."),
    413: _problem("The body is too large."),
    422: _problem("A field is wrong; `errors` names each."),
    503: _problem("The database is away, and the request cannot do without it."),
}
