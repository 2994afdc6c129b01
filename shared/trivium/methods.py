"""The `Allow` of a 405, where a path's methods stand in several routes: the framework names one's alone."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def name_all_methods(app: FastAPI) -> None:
    """Has every 405 of the application name all methods of its path; call it when errors are handled."""
    inner: Any = app.exception_handlers[HTTPException]

    async def handle(request: Request, error: Exception) -> Response:
        answer: Response = await inner(request, error)
        if answer.status_code == 405:
            answer.headers["Allow"] = ", ".join(m for m in _METHODS if _takes(app, request, m))
        return answer

    app.add_exception_handler(HTTPException, handle)


def _takes(app: FastAPI, request: Request, method: str) -> bool:
    asked = {**request.scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in app.router.routes)
