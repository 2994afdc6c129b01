"""The REST endpoints beside `…/infer`: metadata, readiness, the registry's index, health."""

from typing import Any

from fastapi import APIRouter, Request

from edge_model.doors import metadata
from edge_model.doors.docs import KEYED, NAMED, IndexOut, ModelOut, ModelReadyOut, ServerOut, told
from edge_model.state import EdgeState, state_of
from trivium.errors import Unavailable


def models() -> APIRouter:
    """Below `/v2`, with a key."""
    router = APIRouter(tags=["Open Inference Protocol"], responses=KEYED)

    @router.get("/models/{model}", response_model=ModelOut, responses=NAMED)
    async def model_metadata(request: Request, model: str) -> dict[str, Any]:
        """What a model takes and gives."""
        return _metadata(request, model, None)

    @router.get("/models/{model}/versions/{version}", response_model=ModelOut, responses=NAMED)
    async def version_metadata(request: Request, model: str, version: str) -> dict[str, Any]:
        """What a version of a model takes and gives."""
        return _metadata(request, model, version)

    @router.get("/models/{model}/ready", response_model=ModelReadyOut, responses=NAMED)
    async def model_ready(request: Request, model: str) -> dict[str, Any]:
        """Whether a model serves."""
        return _ready(request, model, None)

    @router.get("/models/{model}/versions/{version}/ready", response_model=ModelReadyOut, responses=NAMED)
    async def version_ready(request: Request, model: str, version: str) -> dict[str, Any]:
        """Whether a version of a model serves."""
        return _ready(request, model, version)

    @router.post("/repository/index", response_model=list[IndexOut])
    async def index(request: Request) -> list[dict[str, Any]]:
        """Every version that serves, and every one that was refused, with the reason."""
        return state_of(request).core.registry.index()

    @router.get("", response_model=ServerOut)
    async def server_metadata() -> dict[str, Any]:
        """What this server is."""
        return metadata.server_metadata()

    return router


def _metadata(request: Request, model: str, version: str | None) -> dict[str, Any]:
    registry = state_of(request).core.registry
    return metadata.model_metadata(registry.get(model, version).card, registry.versions(model))


def _ready(request: Request, model: str, version: str | None) -> dict[str, Any]:
    return {"name": state_of(request).core.registry.get(model, version).card.name, "ready": True}


def health() -> APIRouter:
    """Open to every caller."""
    router = APIRouter()

    @router.get("/health/live", include_in_schema=False)
    @router.get("/v2/health/live", responses=told(_413="The body is too large.", _503="A run is stuck."))
    async def live(request: Request) -> dict[str, Any]:
        """The event loop turns, and no slot has been silent for longer than TRIVIUM_EDGE_STUCK_S."""
        refuse_if_stuck(state_of(request))
        return {"live": True}

    @router.get("/health/ready", include_in_schema=False)
    @router.get("/v2/health/ready", responses=told(_413="The body is too large.", _503="No model is loaded."))
    async def ready(request: Request) -> dict[str, Any]:
        """At least one model is warm and passed its canary."""
        refuse_if_empty(state_of(request))
        return {"ready": True}

    return router


def refuse_if_stuck(state: EdgeState) -> None:
    """Raises Unavailable if a run has not ended for too long."""
    age_s = state.core.runner.heartbeat_age_s
    if age_s > state.settings.edge_stuck_s:
        raise Unavailable(f"A run has not ended for {age_s:.0f} s", retry_after_s=1)


def refuse_if_empty(state: EdgeState) -> None:
    """Raises Unavailable if no model serves."""
    if not state.core.registry.names:
        raise Unavailable("No model is loaded", retry_after_s=1)
