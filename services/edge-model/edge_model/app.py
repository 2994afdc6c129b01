"""The edge model service: the Open Inference Protocol over REST."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from edge_model import protocol
from edge_model.batching import Runner
from edge_model.cpus import granted_cpus
from edge_model.registry import Registry
from edge_model.settings import EdgeSettings
from trivium.errors import InvalidRequest, TriviumError, Unavailable
from trivium.http import DEADLINE_HEADER
from trivium.metrics import EDGE_LATENCY
from trivium.web import add_documents, add_metrics, add_middleware, service_key_guard

log = structlog.get_logger()
DEFAULT_DEADLINE_MS = 10_000.0
MAX_DEADLINE_MS = 600_000.0
PROTOCOL_STATUS = {422: 400}


@dataclass(frozen=True, slots=True)
class EdgeState:
    """Everything built in the lifespan."""

    settings: EdgeSettings
    registry: Registry
    runner: Runner


def create_app(settings: EdgeSettings | None = None) -> FastAPI:
    """The service, not yet started."""
    chosen = settings or EdgeSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        slots = chosen.edge_threads or granted_cpus()
        log.info("threads", slots=slots, granted_cpus=granted_cpus(), intra_op=1)
        registry = Registry()
        await asyncio.to_thread(registry.load, chosen.models_dir)
        runner = Runner(slots, chosen.edge_max_waiting)
        app.state.edge = EdgeState(chosen, registry, runner)
        yield
        await asyncio.to_thread(runner.close)

    app = FastAPI(
        title="Trivium edge model",
        description="Small models on ONNX Runtime, by the Open Inference Protocol.",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    guard = Depends(service_key_guard(chosen))
    app.include_router(_models(), prefix="/v2", dependencies=[guard])
    app.include_router(_health())
    add_metrics(app, guard)
    add_documents(app, guard)
    add_middleware(app, chosen)
    _answer_errors(app)
    return app


def _state(request: Request) -> EdgeState:
    state: EdgeState = request.app.state.edge
    return state


def _models() -> APIRouter:
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.post("/models/{model}/infer")
    @router.post("/models/{model}/versions/{version}/infer")
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        """Runs a model over texts."""
        started = time.monotonic()
        state = _state(request)
        loaded = state.registry.get(model, version)
        asked, texts = protocol.parse(await request.body(), loaded.card, state.settings.edge_max_texts)
        outputs = await state.runner.run(loaded, texts, started + _deadline_s(request))
        body = protocol.answer(asked, loaded.card, outputs)
        took = time.monotonic() - started
        EDGE_LATENCY.labels(loaded.card.name, loaded.card.version).observe(took)
        return Response(body, media_type="application/json")

    @router.get("/models/{model}")
    @router.get("/models/{model}/versions/{version}")
    async def model_metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """What a model takes and gives."""
        registry = _state(request).registry
        return protocol.metadata(registry.get(model, version).card, registry.versions(model))

    @router.get("/models/{model}/ready")
    @router.get("/models/{model}/versions/{version}/ready")
    async def model_ready(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """Whether a model serves."""
        card = _state(request).registry.get(model, version).card
        return {"name": card.name, "ready": True}

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """What this server is."""
        return {"name": "trivium-edge-model", "version": "1", "extensions": []}

    return router


def _health() -> APIRouter:
    router = APIRouter()

    @router.get("/health/live", include_in_schema=False)
    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The event loop turns."""
        return {"live": True}

    @router.get("/health/ready", include_in_schema=False)
    @router.get("/v2/health/ready")
    async def ready(request: Request) -> dict[str, bool]:
        """At least one model passed its canary."""
        if not _state(request).registry.names:
            raise Unavailable("No model is loaded", retry_after_s=1)
        return {"ready": True}

    return router


def _answer_errors(app: FastAPI) -> None:
    """The protocol's own shape, `{"error": …}`, under `/v2`; ours elsewhere."""
    elsewhere_ours = app.exception_handlers[TriviumError]
    elsewhere_http = app.exception_handlers[HTTPException]

    @app.exception_handler(TriviumError)
    async def ours(request: Request, error: TriviumError) -> Response:
        if not request.url.path.startswith("/v2"):
            return await elsewhere_ours(request, error)  # type: ignore[no-any-return, misc]
        headers = {} if error.retry_after_s is None else {"Retry-After": f"{error.retry_after_s:.0f}"}
        status = PROTOCOL_STATUS.get(error.status, error.status)
        return JSONResponse({"error": error.detail}, status, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if not request.url.path.startswith("/v2"):
            return await elsewhere_http(request, error)  # type: ignore[no-any-return, misc]
        return JSONResponse({"error": error.detail}, error.status_code)


def _deadline_s(request: Request) -> float:
    told = request.headers.get(DEADLINE_HEADER, str(DEFAULT_DEADLINE_MS))
    try:
        milliseconds = float(told)
    except ValueError:
        milliseconds = math.nan
    if not 0 <= milliseconds <= MAX_DEADLINE_MS:
        raise InvalidRequest(f"{DEADLINE_HEADER}: {told!r}; milliseconds from 0 to {MAX_DEADLINE_MS:.0f}")
    return milliseconds / 1000
