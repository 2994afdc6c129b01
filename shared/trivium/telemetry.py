"""Structured logs, the request id that runs through them, and HTTP metrics."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from trivium.settings import Settings
from trivium.tracing import add_ids

REQUEST_ID_HEADER = "x-request-id"
# By handler; the instrumentator's own (0.1, 0.5, 1) would tell no P99 from another.
_HANDLER_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ACCEPTABLE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
Processor = Callable[[Any, str, Any], Any]


def configure_logging(settings: Settings, service: str) -> None:
    """Routes structlog and the standard library's logs to standard output, in one shape."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without the local variables: they hold keys and messages.
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(serializer=lambda line, **_: orjson.dumps(line, str).decode())
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("apscheduler", "UnleashClient", "arq.worker", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def new_id() -> str:
    """A UUIDv7: unique, and in order of time."""
    return str(uuid7())


def request_id_of(sent: bytes) -> str:
    """The id that a caller sent, if it is up to 128 letters, digits or `._:-`; else a new one."""
    return sent.decode() if _ACCEPTABLE_ID.fullmatch(sent) else new_id()


class RequestContext:
    """Gives every request an id, in its logs and in the answer's `X-Request-Id`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((v for k, v in scope["headers"] if k == REQUEST_ID_HEADER.encode()), b"")
        request_id = request_id_of(sent)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (REQUEST_ID_HEADER.encode(), request_id.encode()),
                ]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


def run_in_background(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """Starts a task that must not end by itself.

    If it fails, the process ends: a service that looks alive but no longer stores or works is worse
    than one that its supervisor starts again.
    """

    def ended(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            structlog.get_logger().critical("background_task_failed", task=name, exc_info=error)
            os.kill(os.getpid(), signal.SIGTERM)

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    return task


def instrument(app: FastAPI) -> None:
    """Counts and times every HTTP request by handler, method and status."""
    counted = Instrumentator(should_group_status_codes=False, excluded_handlers=["/metrics", "/health/.*"])
    counted.instrument(app, latency_lowr_buckets=_HANDLER_BUCKETS_S)
