"""The edge model service: small models on ONNX Runtime, by the Open Inference Protocol."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from edge_model.artefacts import Source
from edge_model.batching import Runner
from edge_model.cpus import granted_cpus
from edge_model.doors.docs import describe_infer
from edge_model.doors.endpoints import health, models
from edge_model.doors.grpc import serve_grpc
from edge_model.doors.rest import RestDoor, as_response
from edge_model.inference import Core
from edge_model.inputs import Limits
from edge_model.registry import Registry
from edge_model.settings import EdgeSettings
from edge_model.state import EdgeState
from trivium.documents import add_documents
from trivium.errors import TooLarge, TriviumError
from trivium.telemetry import run_in_background
from trivium.web import BodyLimit, add_metrics, add_middleware, problem, service_key_guard

log = structlog.get_logger()
HELPER_THREADS = 1


class EdgeApp(FastAPI):
    """The application, with the door of `…/infer` before it."""

    door: RestDoor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http" and self.door.leads(scope["path"]):
            scope["app"] = self
            await self.door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: EdgeSettings | None = None) -> FastAPI:
    """The service, not yet started."""
    chosen = settings or EdgeSettings()
    app = EdgeApp(
        title="Trivium edge model",
        description="Small models on ONNX Runtime, by the Open Inference Protocol.",
        version="1",
        lifespan=_lifespan(chosen),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    check_key = service_key_guard(chosen)
    guard = Depends(check_key)
    app.include_router(models(), prefix="/v2", dependencies=[guard])
    app.include_router(health())
    add_metrics(app, guard)
    add_documents(app, guard)
    add_middleware(app, chosen, inner=Middleware(BodyLimit, chosen.max_body_bytes, _too_large))
    _answer_errors(app)
    describe_infer(app, ["/v2/health/live", "/v2/health/ready"])
    key = chosen.service_key.get_secret_value()
    app.door = RestDoor(check_key, key, chosen.max_body_bytes)
    return app


def _lifespan(settings: EdgeSettings) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The tokenizer would make threads of its own, as many as the host has CPUs.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(HELPER_THREADS, thread_name_prefix="aside"))
        runner = Runner(_slots(settings), settings.edge_max_queue_ms)
        source = Source(settings.models_url or str(settings.models_dir.resolve()))
        always = settings.edge_batching == "always"
        registry = Registry(source, runner, settings.edge_threads_per_run, always)
        await registry.refresh()
        core = Core(registry, runner, Limits(settings.edge_max_rows, settings.edge_max_characters))
        app.state.edge = EdgeState(settings, core)
        watching = run_in_background(registry.watch(settings.edge_poll_s), "registry")
        async with serve_grpc(settings, app.state.edge):
            yield
        watching.cancel()
        await asyncio.to_thread(runner.close)

    return lifespan


def _slots(settings: EdgeSettings) -> int:
    """Runs at once: with the threads of each, never more than the CPUs that were granted."""
    granted = granted_cpus()
    threads = settings.edge_threads_per_run
    slots = settings.edge_slots or max(1, granted // threads)
    log.info("threads", granted_cpus=granted, slots=slots, threads_per_run=threads)
    if slots * threads > granted:
        log.warning("more_threads_than_cpus", threads=slots * threads, granted_cpus=granted)
    return slots


def _answer_errors(app: FastAPI) -> None:
    """The protocol's own shape, `{"error": …}`, under `/v2`; ours elsewhere."""
    for kind in (TriviumError, HTTPException, Exception):
        app.add_exception_handler(kind, _by_path(app.exception_handlers[kind]))


def _too_large(request: Request, error: TooLarge) -> Response:
    if request.url.path.startswith("/v2"):
        return as_response(request, error)
    return problem(request, error.status, error.code, error.title, error.detail)


def _by_path(elsewhere: Any) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        if request.url.path.startswith("/v2"):
            return as_response(request, error)
        answered: Response = await elsewhere(request, error)
        return answered

    return answer
