"""`/openapi.json` and `/docs`, which load nothing from elsewhere; a browser sends the key by HTTP Basic."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

# The page runs these three files and nothing else; its styles it writes itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></body></html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""


def add_documents(app: FastAPI, guard: Any) -> None:
    """Adds them to a service, behind its guard."""
    folder = _swagger_folder()
    keyed: dict[str, Any] = {"include_in_schema": False, "dependencies": [guard]}

    @app.get("/openapi.json", **keyed)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", **keyed)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=app.title), headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/start.js", **keyed)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @app.get("/docs/swagger-ui.css", **keyed)
    async def styles() -> FileResponse:
        return FileResponse(folder / "swagger-ui.css", media_type="text/css")

    @app.get("/docs/swagger-ui-bundle.js", **keyed)
    async def script() -> FileResponse:
        return FileResponse(folder / "swagger-ui-bundle.js", media_type="text/javascript")


def _swagger_folder() -> Path:
    """Of Swagger UI's files, which a package brings; nothing of it is imported."""
    found = find_spec("fastapi_offline")
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "static"
