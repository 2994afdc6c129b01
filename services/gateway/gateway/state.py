"""What the gateway holds while it runs, and how routes get at it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from gateway.chats import Chats
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.statuses import Statuses
from trivium.errors import Unauthenticated
from trivium.features import Catalogue
from trivium.precompute.importing import Importer
from trivium.store.chunks import ChunkRepository
from trivium.store.costs import CostRepository
from trivium.store.keys import Key, KeyCache
from trivium.store.recorder import Recorder
from trivium.store.runs import RunRepository
from trivium.web import bearer

MAX_STREAMS = 1_000


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
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_STREAMS))
    """Of server-sent events, that may be open at once."""


def state_of(request: Request) -> GatewayState:
    """The state that the lifespan built."""
    state: GatewayState = request.app.state.gateway
    return state


async def _state(request: Request) -> GatewayState:
    """The same as a dependency: what is not async would be run in a thread."""
    return state_of(request)


State = Annotated[GatewayState, Depends(_state)]


def scope(name: str) -> Callable[[Request], Awaitable[Key]]:
    """A dependency that demands a key with a scope."""

    async def demand(request: Request) -> Key:
        key = await state_of(request).keys.authenticate(bearer(request))
        return key.demand(name)

    return demand


def wants_fresh(request: Request) -> bool:
    """Whether a caller takes no kept answer."""
    return "no-cache" in request.headers.get("cache-control", "").lower()


async def admin_or_service(request: Request) -> None:
    """Admits the service key, which Prometheus has, or a key with the scope `admin`."""
    try:
        await request.app.state.service_guard(request)
    except Unauthenticated:
        await scope("admin")(request)
