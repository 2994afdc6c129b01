"""Starts traces, if the environment asks for them, and ends them with what is not sent yet."""

import asyncio
import logging
import os
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Protocol

import structlog

from trivium import tracing
from trivium.tracing.environment import unsupported, wants_traces

log = structlog.get_logger()
FLUSH_S = 3.0
"""Longest that the end of a service waits for the collector."""
TELL_EVERY_S = 60.0
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_QUEUE = "opentelemetry.sdk._shared_internal"


class _Provider(Protocol):
    def shutdown(self) -> None: ...


_provider: _Provider | None = None


def start(service: str) -> bool:
    """Traces from now on, if the standard variables say where to; says whether it does.

    What is asked for and cannot be had is told once, and leaves the service without traces: they are no
    reason not to serve.

    Args:
        service: gateway, worker or edge; its name in traces is `trivium-<service>` unless the environment
            has another.
    """
    if not wants_traces(os.environ):
        return False
    if reason := unsupported(os.environ):
        log.warning("traces_off", detail=reason)
        return False
    try:
        _start(f"trivium-{service}")
    except ImportError as error:
        detail = f"{error}; install the extra otel: pip install 'trivium[{_extra_of(service)},otel]'"
        log.warning("traces_off", detail=detail)
        return False
    except ValueError as error:  # of the SDK: a propagator that it does not know, a queue of no length
        log.warning("traces_off", detail=f"a variable OTEL_* is wrong: {error}")
        return False
    return True


def _start(name: str) -> None:
    global _provider
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from trivium.tracing.recorded import OtelTracer

    seldom = Seldom()
    logging.getLogger(_EXPORTER).setLevel(logging.ERROR)  # not of every try
    for noisy in (_EXPORTER, _QUEUE):
        logging.getLogger(noisy).addFilter(seldom)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    resource = Resource({"service.version": version("trivium")}).merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": name}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _provider = provider
    log.info("traces_on", service_name=resource.attributes["service.name"])
    tracing.use(OtelTracer(provider.get_tracer("trivium", version("trivium"))))


async def stop() -> None:
    """Ends the traces; waits at most FLUSH_S for what is not sent yet to reach the collector."""
    global _provider
    tracing.use(None)
    if _provider is None:
        return
    provider, _provider = _provider, None
    sent = asyncio.Event()
    loop = asyncio.get_running_loop()

    def send() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # nobody waited so long
            loop.call_soon_threadsafe(sent.set)

    # A thread that no end of the process waits for: a collector may hold it longer than that.
    threading.Thread(target=send, name="traces", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await sent.wait()


class Seldom(logging.Filter):
    """Lets the same be said once in TELL_EVERY_S: a collector that is away must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        now = time.monotonic()
        if now < self._said.get(str(record.msg), -TELL_EVERY_S) + TELL_EVERY_S:
            return False
        self._said[str(record.msg)] = now
        return True


def _extra_of(service: str) -> str:
    return {"worker": "batch-worker", "edge": "edge-model"}.get(service, service)
