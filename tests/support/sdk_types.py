"""Whether what goes over the wire has the types of the vendors' own SDKs."""

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter

M = TypeVar("M", bound=BaseModel)


def strictly(model: type[M], raw: bytes) -> M:
    """The SDK's model of it, without any field that the SDK does not know."""
    parsed = model.model_validate_json(raw, strict=True)
    _no_extras(parsed)
    return parsed


def _no_extras(value: object) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, (type(value), value.model_extra)
        for name in type(value).model_fields:
            _no_extras(getattr(value, name))
    elif isinstance(value, list):
        for part in value:
            _no_extras(part)


def conforms(params: Any, sent: dict[str, Any]) -> None:
    """The SDK's type of parameters takes it, down to the last, and knows each field."""
    assert set(sent) <= set(get_type_hints(params))
    _exhaust(_adapter(params).validate_python(sent, strict=True))


@cache
def _adapter(params: Any) -> TypeAdapter[Any]:
    return TypeAdapter(params)  # must outlive what it validates lazily


def _exhaust(value: object) -> None:
    """Pydantic checks what is in an Iterable as it is taken out."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            _exhaust(part)
