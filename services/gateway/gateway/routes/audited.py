"""Endpoints whose every call is entered into the audit log, whether it was done, refused or failed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from gateway.state import GatewayState, state_of
from trivium.errors import TooManyGuesses, TriviumError, Unauthenticated, Unavailable
from trivium.store.audit import Outcome
from trivium.store.keys import Key
from trivium.web import StrictRoute

log = structlog.get_logger()
MARK = "audit_action"
"""The attribute of an audited endpoint: what it does."""
_MOST_WHY = 300
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def audited(action: str) -> Callable[[Endpoint], Endpoint]:
    """Says what an endpoint of an AuditedRoute does, as `runs.start`."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, MARK, action)
        return endpoint

    return mark


def note(request: Request, **detail: Any) -> None:
    """Adds to what is entered of a request; never a secret."""
    request.scope.setdefault("state", {}).setdefault("audited", {}).update(detail)


class AuditedRoute(APIRoute):
    """A route that enters what its endpoint did, once a key has been recognised.

    What is done and cannot be entered is answered with 503: an act that stands nowhere is no success.
    """

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, watched."""
        handle = super().get_route_handler()
        action: str | None = getattr(self.endpoint, MARK, None)
        if action is None:
            return handle

        async def watched(request: Request) -> Response:
            try:
                answer = await handle(request)
            except (Unauthenticated, TooManyGuesses):
                raise  # nobody whom an entry could name
            except BaseException as error:
                await asyncio.shield(_enter_refused(request, action, error))
                raise
            await _enter_done(request, action, answer)
            return answer

        return watched


class AuditedStrictRoute(AuditedRoute, StrictRoute):
    """The same, of a route that reads its body strictly."""


async def _enter_done(request: Request, action: str, answer: Response) -> None:
    if answer.status_code >= 400:  # nobody hears it: the caller went away
        await _enter_refused(request, action, ConnectionError("the caller went away"))
        return
    try:
        await asyncio.shield(_enter(request, action, "done", {}))
    except Exception as error:
        log.error("not_audited", action=action, actor=_actor(request), target=_target(request))
        told = f"{action} of {_target(request)} was done, but could not be entered into the audit log"
        raise Unavailable(told, retry_after_s=2) from error


async def _enter_refused(request: Request, action: str, error: BaseException) -> None:
    """Enters what was not done; the error itself is the answer, whether or not it could be entered."""
    if _key_of(request) is None:
        return
    outcome: Outcome = "failed"
    if isinstance(error, RequestValidationError) or (isinstance(error, TriviumError) and error.status < 500):
        outcome = "refused"
        refused = state_of(request).refused
        if refused.full_s(_actor(request)):
            log.warning("refusal_not_audited", action=action, actor=_actor(request))
            return
        refused.count(_actor(request))
    try:
        await _enter(request, action, outcome, {"why": _told(error)})
    except Exception as fault:
        log.error("not_audited", action=action, actor=_actor(request), outcome=outcome, exc_info=fault)


async def _enter(request: Request, action: str, outcome: Outcome, more: dict[str, Any]) -> None:
    state: GatewayState = state_of(request)
    noted: dict[str, Any] = request.scope.get("state", {})
    detail = {**noted.get("audited", {}), **more}
    await state.audit.record(
        _actor(request), action, _target(request), outcome, detail, noted.get("request_id")
    )


def _key_of(request: Request) -> Key | None:
    key: Key | None = request.scope.get("state", {}).get("key")
    return key


def _actor(request: Request) -> str:
    key = _key_of(request)
    return f"key:{key.own_id}" if key else "nobody"


def _target(request: Request) -> str:
    return ",".join(request.path_params.values()) or request.url.path


def _told(error: BaseException) -> str:
    if isinstance(error, TriviumError):
        return f"{error.code}: {error.detail}"[:_MOST_WHY]
    return type(error).__name__
