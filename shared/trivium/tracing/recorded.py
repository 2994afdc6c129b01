"""Spans that are recorded: the one module that makes them by OpenTelemetry."""

from asyncio import CancelledError
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trivium.errors import TriviumError
from trivium.tracing import NO_SPAN, Attributes, Kind, Span

_OURS = contexts.create_key("trivium-span")
_KINDS = {
    kind: trace.SpanKind[kind.upper()] for kind in ("internal", "server", "client", "consumer", "producer")
}
_KEPT = TraceContextTextMapPropagator()
"""For what is kept in the database, whatever the services say to each other."""


class Recorded(Span):
    """A span of OpenTelemetry, and the context of the work within it."""

    __slots__ = ("_context", "_failed", "_is_free", "_otel", "_token", "_tracer", "is_off")

    def __init__(
        self,
        tracer: trace.Tracer,
        name: str,
        kind: Kind,
        attributes: Attributes,
        context: Context,
        links: Sequence[trace.Link] = (),
        *,
        is_attempt: bool = False,
    ) -> None:
        self._tracer = tracer
        self._otel = tracer.start_span(
            name, context, _KINDS[kind], _known(attributes), links, record_exception=False
        )
        self._context = trace.set_span_in_context(self._otel, context)
        # Not sampled: nor is what stands beneath it, by any sampler that the standard names.
        self.is_off = not self._otel.is_recording()
        self._is_free = is_attempt
        self._failed = False
        self._token: Any = None

    @property
    def recording(self) -> bool:
        """See Span."""
        return self._otel.is_recording()

    def rename(self, name: str) -> None:
        """See Span."""
        if self.recording:
            self._otel.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """See Span."""
        if self.recording:
            self._otel.set_attributes(_known(attributes))

    def fail(self, kind: str) -> None:
        """See Span."""
        if self.recording and not self._failed:
            self._failed = True
            self._otel.set_attribute("error.type", kind)
            self._otel.set_status(trace.StatusCode.ERROR)

    def event(self, name: str, attributes: Attributes) -> None:
        """See Span."""
        if self.recording:
            self._otel.add_event(name, _known(attributes))

    def end(self) -> None:
        """See Span."""
        if self.recording:
            self._otel.end()

    @contextmanager
    def here(self) -> Iterator[None]:
        """See Span."""
        token = self._attach()
        try:
            yield
        finally:
            contexts.detach(token)

    def attempt(self, name: str) -> Span:
        """See Span."""
        if self.is_off:
            return _Lent(self)
        return Recorded(self._tracer, name, "client", {}, self._context, is_attempt=True)

    def call(self, name: str) -> Span:
        """See Span."""
        if self.is_off:
            return _Lent(self)
        if self._is_free:
            self._is_free = False
            self.rename(name)
            return _Lent(self)
        return Recorded(self._tracer, name, "client", {}, self._context)

    def carry(self, headers: dict[str, str]) -> dict[str, str]:
        """See Span."""
        propagate.inject(headers, self._context)
        return headers

    def __enter__(self) -> Self:
        self._token = self._attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        self._token = None
        if error is not None:
            self.fail(type_of(error))
        self.end()

    def _attach(self) -> Any:
        # Not kept in the span, so that nothing is left for the collector of garbage when it is done.
        return contexts.attach(contexts.set_value(_OURS, self, self._context))


class _Lent(Span):
    """A span that another ends: an attempt's for its call; one not sampled for all that stands beneath it."""

    __slots__ = ("_of",)

    def __init__(self, of: Recorded) -> None:
        self._of = of

    @property
    def recording(self) -> bool:
        return self._of.recording

    def set(self, attributes: Attributes) -> None:
        self._of.set(attributes)

    def carry(self, headers: dict[str, str]) -> dict[str, str]:
        return self._of.carry(headers)


class OtelTracer:
    """Makes spans; see the functions of these names in trivium.tracing."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def current(self) -> Span:
        """The span that this task works in."""
        found = contexts.get_value(_OURS)
        return found if isinstance(found, Span) else NO_SPAN

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: str | None, links: Sequence[str]
    ) -> Span:
        """A span beneath the current one, or beneath a parent that was kept."""
        here = contexts.get_value(_OURS)
        if parent is None and isinstance(here, Recorded) and here.is_off:
            return _Lent(here)
        within = _kept(parent) if parent else contexts.get_current()
        others = [trace.Link(found) for link in links if (found := _span_of(_kept(link))).is_valid]
        return Recorded(self._tracer, name, kind, attributes, within, others)

    def apart(self, name: str) -> Span:
        """The first span of a trace of its own."""
        before = _span_of(contexts.get_current())
        links = [trace.Link(before)] if before.is_valid else []
        return Recorded(self._tracer, name, "internal", {}, Context(), links)

    def arrived(self, name: str, carrier: Mapping[str, str], attributes: Attributes) -> Span:
        """The span of a request."""
        caller = propagate.extract(carrier, Context())
        return Recorded(self._tracer, name, "server", attributes, caller)

    def traceparent(self) -> str | None:
        """The current span, to be kept."""
        carrier: dict[str, str] = {}
        _KEPT.inject(carrier)
        return carrier.get("traceparent")

    def identify(self, line: MutableMapping[str, Any]) -> None:
        """Adds the ids of the current span."""
        found = _span_of(contexts.get_current())
        if found.is_valid:
            line["trace_id"] = trace.format_trace_id(found.trace_id)
            line["span_id"] = trace.format_span_id(found.span_id)


def type_of(error: BaseException) -> str:
    """A short and stable name for an error; never its words, which may be the caller's."""
    if isinstance(error, TriviumError):
        return error.code
    return "cancelled" if isinstance(error, CancelledError) else type(error).__qualname__


def _known(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _kept(traceparent: str) -> Context:
    return _KEPT.extract({"traceparent": traceparent}, Context())


def _span_of(context: Context) -> trace.SpanContext:
    return trace.get_current_span(context).get_span_context()
