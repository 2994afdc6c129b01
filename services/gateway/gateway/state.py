"""What the gateway holds while it runs, and how routes get at it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from gateway.chats import Chats
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.statuses import Statuses
from trivium.domain.route import PREFIX
from trivium.errors import Forbidden, NotFound, Unauthenticated
from trivium.features import Catalogue
from trivium.guesses import Recent
from trivium.metrics import AUTH_REFUSED
from trivium.precompute.importing import Importer
from trivium.store.audit import AuditRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.costs import CostRepository
from trivium.store.key_cache import KeyCache
from trivium.store.keys import Key
from trivium.store.recorder import Recorder
from trivium.store.runs import RunRepository
from trivium.web import bearer

MAX_STREAMS = 1_000
MOST_REFUSED = 60
"""Refused acts of one key that are audited in a minute; the service's log has the others."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Everything built in the lifespan."""

    settings: GatewaySettings
    catalogue: Catalogue
    serving: Serving
    chats: Chats
    recorder: Recorder
    keys: KeyCache
    runs: RunRepository
    chunks: ChunkRepository
    importer: Importer
    costs: CostRepository
    statuses: Statuses
    audit: AuditRepository
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_STREAMS))
    """Of server-sent events, that may be open at once."""
    refused: Recent = field(default_factory=lambda: Recent(MOST_REFUSED))
    """Refused acts by who tried them."""


def state_of(request: Request) -> GatewayState:
    """The state that the lifespan built."""
    state: GatewayState = request.app.state.gateway
    return state


async def _state(request: Request) -> GatewayState:
    """The same as a dependency: what is not async would be run in a thread."""
    return state_of(request)


State = Annotated[GatewayState, Depends(_state)]


def scope(*names: str) -> Callable[[Request], Awaitable[Key]]:
    """A dependency that demands a key with one of the scopes, that may call the feature in the path."""

    async def demand(request: Request) -> Key:
        return await admitted(request, *names)

    return demand


async def admitted(request: Request, *scopes: str) -> Key:
    """The key of a request, with one of the scopes; before anything is looked up for it.

    Raises:
        Unauthenticated, TooManyGuesses, Unavailable: as of KeyCache. Forbidden: the key may not do this.
    """
    try:
        secret = bearer(request)
    except Unauthenticated:
        AUTH_REFUSED.labels("missing").inc()
        raise
    key = await state_of(request).keys.authenticate(
        secret, request.client.host if request.client else "local"
    )
    request.state.key = key
    with counting_refusals():
        key.demand(*scopes)
    if feature := request.path_params.get("feature"):
        demand_feature(key, feature)
        hide_others(key, feature, state_of(request).catalogue)
    return key


@contextmanager
def counting_refusals() -> Iterator[None]:
    """Counts it where a key may not do what it is asked for."""
    try:
        yield
    except Forbidden:
        AUTH_REFUSED.labels("forbidden").inc()
        raise


def hide_others(key: Key, name: str, catalogue: Catalogue) -> None:
    """Raises NotFound for a feature that a limited key may call and that is not there, naming no other."""
    if key.features is not None and all(feature.name != name for feature in catalogue):
        raise NotFound(f"There is no feature {name!r}")


def demand_feature(key: Key, name: str) -> None:
    """Raises Forbidden, and counts it, where a key may not call a feature, or a route as `route/<name>`."""
    with counting_refusals():
        key.demand_feature(name)


def demand_route(state: GatewayState, key: Key, model: str) -> None:
    """Raises Forbidden for a route that a key may not call, whether or not there is such a route."""
    if key.features is None:
        return
    try:
        name = state.chats.routes.find(model).name
    except NotFound:
        demand_feature(key, PREFIX + model.removeprefix(PREFIX))
        raise NotFound(f"There is no route {model!r}") from None
    demand_feature(key, name)


def wants_fresh(request: Request) -> bool:
    """Whether a caller takes no kept answer."""
    return "no-cache" in request.headers.get("cache-control", "").lower()


async def admin_or_service(request: Request) -> None:
    """Admits the service key, which Prometheus has, or a key with the scope `admin`."""
    try:
        await request.app.state.service_guard(request)
    except Unauthenticated:
        await scope("admin")(request)
