"""The composition root: settings in, everything built in the lifespan, one typed state."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
from fastapi import Depends, FastAPI

from gateway.routes import features, feedback, health, inferences, results, runs
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.state import GatewayState, admin_or_service, scope
from trivium.domain.cost import Price
from trivium.domain.fallback import Breaker, Breakers
from trivium.edge import EdgeClient
from trivium.features import load_catalogue
from trivium.flags import UnleashFlags
from trivium.metrics import BREAKER_STATE
from trivium.patterns.steps import Backends, make_providers
from trivium.precompute.importing import Importer
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository
from trivium.store.journal import Journal
from trivium.store.keys import KeyCache, KeyRepository
from trivium.store.recorder import Recorder
from trivium.store.refresher import Refresher
from trivium.store.results import ResultRepository
from trivium.store.runs import RunRepository
from trivium.telemetry import run_in_background
from trivium.web import add_documents, add_metrics, add_middleware, service_key_guard

KEYS_REFRESH_S = 5.0


def create_app(settings: GatewaySettings | None = None) -> FastAPI:
    """The gateway, not yet started."""
    chosen = settings or GatewaySettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.gateway = await _build(chosen, stack)
            yield

    app = FastAPI(
        title="Trivium gateway",
        description="One call, three inference patterns, always an answer inside the deadline.",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service_guard = service_key_guard(chosen)
    # The router is searched in order, so the hot path comes first.
    for part in (
        features.router,
        feedback.router,
        results.router,
        inferences.router,
        runs.streamed,
        runs.router,
        health.router,
    ):
        app.include_router(part)
    add_metrics(app, Depends(admin_or_service))
    add_documents(app, Depends(scope("infer")))
    add_middleware(app, chosen, re.compile(r"/v1/features/[^/]+/precompute"))
    return app


async def _build(settings: GatewaySettings, stack: AsyncExitStack) -> GatewayState:
    catalogue = load_catalogue(settings.features_dir)
    database = Database(settings.resolved_database_url)
    stack.push_async_callback(database.close)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
    )
    keys = KeyCache(KeyRepository(database))
    await keys.refresh()
    refreshing = run_in_background(_refresh_for_ever(keys), "keys")
    stack.push_async_callback(_cancel, refreshing)
    flags = UnleashFlags(settings)
    await flags.start()
    stack.push_async_callback(flags.stop)
    recorder = Recorder(
        Journal(settings.state_dir / "journal", settings.journal_max_bytes),
        InferenceRepository(database),
        FeedbackRepository(database),
    )
    recorder.start()
    stack.push_async_callback(recorder.stop)
    local = settings.local_usd_per_million_tokens
    backends = Backends(
        providers=make_providers(settings, session),
        edge=EdgeClient(settings.resolved_edge_url, settings.service_key.get_secret_value(), session),
        results=ResultRepository(database),
        local_price=None if local is None else Price(local, local),
    )
    breakers = Breakers(lambda target: Breaker(target, on_change=_show_breaker))
    refresher = Refresher(backends.results)
    refresher.start()
    stack.push_async_callback(refresher.stop)
    serving = Serving(catalogue, backends, flags, breakers, recorder, refresher)
    chunks = ChunkRepository(database)
    importer = Importer(database, chunks, ArchiveRepository(database))
    return GatewayState(
        settings, catalogue, serving, recorder, keys, RunRepository(database), chunks, importer
    )


def _show_breaker(target: str, state: int) -> None:
    BREAKER_STATE.labels(target).set(state)


async def _refresh_for_ever(keys: KeyCache) -> None:
    while True:
        await asyncio.sleep(KEYS_REFRESH_S if keys.loaded else 1.0)
        await keys.refresh()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
