"""A collector of traces on a loopback port: speaks OTLP over HTTP, and keeps what it is sent."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

KINDS = {0: "unspecified", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
"""For services whose spans a test waits for."""


@dataclass(frozen=True)
class Span:
    """A span as it arrived."""

    service: str
    name: str
    kind: str
    trace_id: str
    id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool
    links: list[str]
    events: list[tuple[str, dict[str, Any]]]
    started: int
    ended: int


@dataclass
class Collector:
    """What was sent to it."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What makes a service send its traces here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, **FAST}

    def find(self, seconds: float = 20, **wanted: Any) -> Span:
        """The first span that is so; waits for it."""
        return self.find_all(1, seconds, **wanted)[0]

    def find_all(self, count: int, seconds: float = 20, **wanted: Any) -> list[Span]:
        """The spans that are so, once there are so many."""

        def found() -> list[Span]:
            return [s for s in self.spans if all(getattr(s, name) == value for name, value in wanted.items())]

        there = [(s.service, s.kind, s.name) for s in self.spans]
        assert self.until(lambda: len(found()) >= count, seconds), f"no {wanted} among {there}"
        return found()

    def within(self, trace_id: str, count: int, seconds: float = 20) -> list[Span]:
        """The spans of a trace, in the order in which they began, once there are so many."""
        self.find_all(count, seconds, trace_id=trace_id)
        return sorted((s for s in self.spans if s.trace_id == trace_id), key=lambda s: s.started)

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> bool:
        """Waits until something holds; says whether it did."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def take(self, body: bytes) -> None:
        """Keeps what one request brought."""
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _attributes(resource.resource.attributes)
            service = about["service.name"]
            self.resources[service] = about
            for scope in resource.scope_spans:
                self.spans += [_span(service, sent) for sent in scope.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _span(service: str, sent: Sent) -> Span:
    return Span(
        service,
        sent.name,
        KINDS[sent.kind],
        sent.trace_id.hex(),
        sent.span_id.hex(),
        sent.parent_span_id.hex(),
        _attributes(sent.attributes),
        sent.status.code == 2,
        [link.trace_id.hex() for link in sent.links],
        [(event.name, _attributes(event.attributes)) for event in sent.events],
        sent.start_time_unix_nano,
        sent.end_time_unix_nano,
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in given}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
