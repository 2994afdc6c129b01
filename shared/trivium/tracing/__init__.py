"""Traces: how the code says what it is at, at next to no cost where nobody asked for traces.

A span is a stretch of work. Until `starting.start` has found the standard variables of OpenTelemetry, all
spans are one that does nothing, and OpenTelemetry is not imported. No attribute holds what was asked or
answered, a key, or who it was for.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, Self

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value | None]
Kind = Literal["internal", "server", "client", "consumer", "producer"]
TEMPLATE = "trivium.route"
"""Where in an ASGI scope a door that no router leads to says its path's template."""


class Span:
    """A stretch of work; this one stands for all of them where nothing is traced.

    As a context manager it is the current span within the block, and ends with it: by an exception it
    fails, with that exception's code.
    """

    __slots__ = ()

    @property
    def recording(self) -> bool:
        """Whether anybody will see what is set: attributes that take work to make are made only then."""
        return False

    def rename(self, name: str) -> None:
        """Gives it the name that is only known now."""

    def set(self, attributes: Attributes) -> None:
        """Sets attributes; None is left out. What has ended stays as it is."""

    def fail(self, kind: str) -> None:
        """Notes that it failed, by a short and stable `error.type`; the first counts."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Notes that something happened now."""

    def end(self) -> None:
        """Ends it; once is enough."""

    def here(self) -> AbstractContextManager[Any]:
        """Makes it the current span within a block, and does not end it."""
        return self

    def attempt(self, name: str) -> "Span":
        """A span beneath it of one try of a target; the call that is made then makes it its own."""
        return self

    def call(self, name: str) -> "Span":
        """The span of a call to another service: that of the attempt it is made for, or one beneath."""
        return self

    def carry(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers, and those by which the called service goes on with the trace."""
        return headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


NO_SPAN = Span()


class Tracer(Protocol):
    """What makes spans, once there is something to make them with."""

    def current(self) -> Span:
        """See the function of this name."""
        ...

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: str | None, links: Sequence[str]
    ) -> Span:
        """See `span`."""
        ...

    def apart(self, name: str) -> Span:
        """See the function of this name."""
        ...

    def arrived(self, name: str, carrier: Mapping[str, str], attributes: Attributes) -> Span:
        """See the function of this name."""
        ...

    def traceparent(self) -> str | None:
        """See the function of this name."""
        ...

    def identify(self, line: MutableMapping[str, Any]) -> None:
        """Adds the ids of the current span to a line of the log."""
        ...


_tracer: Tracer | None = None


def use(tracer: Tracer | None) -> None:
    """Makes all spans from now on by a tracer; None: by none."""
    global _tracer
    _tracer = tracer


def active() -> bool:
    """Whether anything is traced."""
    return _tracer is not None


def current() -> Span:
    """The span that this task works in; outside of any, the one that does nothing."""
    return NO_SPAN if _tracer is None else _tracer.current()


def call(name: str) -> Span:
    """The span of a call to another service; what is called outside of any span is not traced."""
    return NO_SPAN if _tracer is None else _tracer.current().call(name)


def span(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes | None = None,
    *,
    parent: str | None = None,
    links: Sequence[str] = (),
) -> Span:
    """A new span beneath the current one, or beneath `parent`; without either, a trace begins.

    Args:
        name: of few values.
        kind: its role towards other services.
        attributes: to begin with.
        parent: a `traceparent` that was kept.
        links: others that it has to do with.
    """
    return NO_SPAN if _tracer is None else _tracer.begin(name, kind, attributes or {}, parent, links)


def apart(name: str) -> Span:
    """The first span of a trace of its own, linked to the current one: work that nobody waits for."""
    return NO_SPAN if _tracer is None else _tracer.apart(name)


def arrived(name: str, carrier: Mapping[str, str], attributes: Attributes) -> Span:
    """The span of a request that came, within its caller's trace if its headers name one."""
    return NO_SPAN if _tracer is None else _tracer.arrived(name, carrier, attributes)


def traceparent() -> str | None:
    """The current span as a W3C `traceparent`, to be kept; None outside of any."""
    return None if _tracer is None else _tracer.traceparent()


def add_ids(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds `trace_id` and `span_id` to a line of the log: a processor of structlog."""
    if _tracer is not None:
        _tracer.identify(line)
    return line
