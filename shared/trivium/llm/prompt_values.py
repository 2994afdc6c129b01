"""What a prompt does with values: how they are shown, and the filters that it may apply."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateRuntimeError, Undefined, pass_environment
from jinja2 import filters as builtin
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape

MAX_CHARACTERS = 1_000_000
"""Of one turn, and of any text that a prompt makes on the way to it."""

MARK = "\ufdd0"
"""Stands for the `<` of the prompt's own tags until all is rendered; no text may hold this character."""


def show(value: Any) -> str:
    """A value as the model reads it: text as it is, null as nothing, all else as compact JSON."""
    if isinstance(value, Undefined):
        return str(value)
    if isinstance(value, str):
        return str(value).replace(MARK, "\ufffd")
    if value is None:
        return ""
    return show(to_json(value))


def to_json(value: Any) -> str:
    """Compact JSON; raises TemplateRuntimeError for what is no value, such as a function."""
    try:
        made = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except (ValueError, RecursionError) as error:
        raise TemplateRuntimeError(f"cannot be shown as JSON: {error}") from error
    bounded(len(made))
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Undefined):
        return str(value) or None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (range, Iterator)):
        return list(value)
    raise TemplateRuntimeError(f"a {type(value).__name__} cannot be shown")


def bounded(length: int) -> None:
    """Raises TemplateRuntimeError for a text of more than MAX_CHARACTERS."""
    if length > MAX_CHARACTERS:
        raise TemplateRuntimeError(f"is over {MAX_CHARACTERS:,} characters long")


def join(
    environment: ImmutableSandboxedEnvironment,
    values: Iterable[Any] | None,
    d: Any = "",
    attribute: Any = None,
) -> str:
    """The values' texts with `d` between them."""
    between = show(d)
    parts: list[str] = []
    length = 0
    found = values or ()
    for value in found if attribute is None else pluck(environment, found, attribute=attribute):
        parts.append(show(value))
        length += len(parts[-1]) + len(between)
        bounded(length - len(between))
    return between.join(parts)


def pluck(
    environment: ImmutableSandboxedEnvironment, values: Iterable[Any], *, attribute: str | int
) -> Iterator[Any]:
    """One attribute of every value."""
    return map(builtin.make_attrgetter(environment, attribute), values)


def _map(
    environment: ImmutableSandboxedEnvironment,
    values: Iterable[Any] | None,
    name: str | None = None,
    attribute: str | int | None = None,
) -> Iterator[Any]:
    found = values or ()
    if attribute is not None:
        found = pluck(environment, found, attribute=attribute)
    if name is not None and name not in _ON_TEXT:
        raise TemplateRuntimeError(f"map takes attribute= and one of {', '.join(_ON_TEXT)}, not {name!r}")
    return iter(found) if name is None else map(_ON_TEXT[name], found)


def _replace(text: Any, old: Any, new: Any) -> str:
    whole, gone, put = show(text), show(old), show(new)
    bounded(len(whole) + whole.count(gone) * (len(put) - len(gone)))
    return whole.replace(gone, put)


def _indent(text: Any, width: int = 4, first: bool = False) -> str:
    lines = show(text).splitlines()
    bounded(sum(map(len, lines)) + len(lines) * (width + 1))
    filled = [" " * width + line if line and (first or n) else line for n, line in enumerate(lines)]
    return "\n".join(filled)


def _truncate(text: Any, length: int = 255, end: str = "...") -> str:
    whole = show(text)
    if len(whole) <= length:
        return whole
    kept = whole[: max(0, length - len(end))]
    return (kept.rsplit(" ", 1)[0] if " " in kept else kept) + end


def _trim(text: Any, characters: str | None = None) -> str:
    return show(text).strip(characters)


def _round(number: float, precision: int = 0) -> float:
    return round(float(number), precision)


def _sum(environment: ImmutableSandboxedEnvironment, values: Iterable[Any], attribute: Any = None) -> Any:
    return sum(values if attribute is None else pluck(environment, values, attribute=attribute))


def _on_text(change: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: change(show(value))


_ON_TEXT: dict[str, Callable[[Any], Any]] = {
    "capitalize": _on_text(str.capitalize),
    "e": _on_text(lambda text: str(escape(text))),
    "escape": _on_text(lambda text: str(escape(text))),
    "lower": _on_text(str.lower),
    "safe": show,
    "string": show,
    "title": _on_text(builtin.do_title),
    "tojson": to_json,
    "upper": _on_text(str.upper),
    "wordcount": _on_text(lambda text: len(text.split())),
}
# Each makes at most what it was given, or is bounded: a chain of them cannot fill the memory.
_KEPT = (
    *("abs", "default", "dictsort", "first", "float", "int", "items", "last", "length", "list"),
    *("max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique"),
)
FILTERS: dict[str, Callable[..., Any]] = {
    **{name: builtin.FILTERS[name] for name in _KEPT},
    **_ON_TEXT,
    "count": builtin.FILTERS["length"],
    "d": builtin.FILTERS["default"],
    "indent": _indent,
    "join": pass_environment(join),
    "map": pass_environment(_map),
    "replace": _replace,
    "round": _round,
    "sum": pass_environment(_sum),
    "trim": _trim,
    "truncate": _truncate,
}
