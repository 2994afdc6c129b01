"""The REST endpoints beside `…/infer`: metadata, readiness, the registry's index, health."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi

from edge_model.doors import metadata
from edge_model.doors.body import InferBody
from edge_model.state import EdgeState, state_of
from trivium.errors import Unavailable


def models() -> APIRouter:
    """Below `/v2`, with a key."""
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.get("/models/{model}")
    @router.get("/models/{model}/versions/{version}")
    async def model_metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """What a model takes and gives."""
        registry = state_of(request).core.registry
        return metadata.model_metadata(registry.get(model, version).card, registry.versions(model))

    @router.get("/models/{model}/ready")
    @router.get("/models/{model}/versions/{version}/ready")
    async def model_ready(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """Whether a model serves."""
        card = state_of(request).core.registry.get(model, version).card
        return {"name": card.name, "ready": True}

    @router.post("/repository/index")
    async def index(request: Request) -> list[dict[str, Any]]:
        """Every version that serves, and every one that was refused, with the reason."""
        return state_of(request).core.registry.index()

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """What this server is."""
        return metadata.server_metadata()

    return router


def health() -> APIRouter:
    """Open to every caller."""
    router = APIRouter()

    @router.get("/health/live", include_in_schema=False)
    @router.get("/v2/health/live")
    async def live(request: Request) -> dict[str, Any]:
        """The event loop turns, and no slot has been silent for longer than TRIVIUM_EDGE_STUCK_S."""
        refuse_if_stuck(state_of(request))
        return {"live": True}

    @router.get("/health/ready", include_in_schema=False)
    @router.get("/v2/health/ready")
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


def describe_infer(app: FastAPI) -> None:
    """Adds `…/infer` to the OpenAPI document: it is served before the application's own routes."""

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schema = InferBody.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas |= schema.pop("$defs", {})
            schemas["InferBody"] = schema
            for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
                made["paths"][path] = {"post": _infer_operation("version" in path)}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _infer_operation(versioned: bool) -> dict[str, Any]:
    names = ["model", "version"] if versioned else ["model"]
    told = {
        "200": "The outputs that were asked for.",
        "400": "Malformed, or a field is wrong: which, and what would be right.",
        "401": "No service key.",
        "404": "No such model or version.",
        "413": "The body, a text or the number of rows is too large.",
        "503": "Refused at once: the line is too long. Retry-After says when to come again.",
        "504": "The deadline passed, or is too near for a run.",
    }
    return {
        "tags": ["Open Inference Protocol"],
        "summary": "Runs a model",
        "operationId": "infer_version" if versioned else "infer",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferBody"}}},
        },
        "responses": {status: {"description": text} for status, text in told.items()},
    }
