"""Health, open to all."""

from fastapi import APIRouter, Request

from trivium.errors import Unavailable

router = APIRouter(prefix="/health", include_in_schema=False)


@router.get("/live")
async def live() -> dict[str, str]:
    """The event loop turns."""
    return {"status": "live"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Manifests are loaded, and keys were read at least once; the database may be away since."""
    if not request.app.state.gateway.keys.loaded:
        raise Unavailable("API keys could not be read yet", retry_after_s=1)
    return {"status": "ready"}
