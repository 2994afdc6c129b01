"""The composition root: settings in, everything built in the lifespan, one typed state."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware

from gateway.books import Books
from gateway.chats import Chats
from gateway.purse import Purse
from gateway.routes import audit, chat, costs, features, feedback, health, inferences, results, rollouts, runs
from gateway.routes.chat import ShortCut
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.shadows import Shadows
from gateway.state import GatewayState, admin_or_service, scope
from gateway.statuses import Statuses
from trivium.documents import add_documents
from trivium.domain.breaker import Breakers, breaker_of
from trivium.errors import Unavailable
from trivium.features import load_catalogue
from trivium.flag_admin import make_flag_admin
from trivium.flag_client import UnleashFlags
from trivium.guesses import Guesses
from trivium.llm.prices import Tariff
from trivium.methods import name_all_methods
from trivium.metrics import BREAKER_STATE, TASKS
from trivium.openapi import describe
from trivium.patterns.routes import RouteTable
from trivium.patterns.steps import make_backends
from trivium.precompute.importing import Importer
from trivium.promotions import check_promoted
from trivium.rollouts.stages import Rollouts
from trivium.rollouts.status import Sources
from trivium.store.archive import ArchiveRepository
from trivium.store.attempts import AttemptRepository
from trivium.store.audit import AuditRepository
from trivium.store.cache import ResponseCache
from trivium.store.chunks import ChunkRepository
from trivium.store.costs import CostRepository
from trivium.store.decisions import DecisionRepository
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository
from trivium.store.journal import Journal
from trivium.store.key_cache import KeyCache
from trivium.store.keys import KeyRepository
from trivium.store.limits import Limits
from trivium.store.outcomes import OutcomeRepository
from trivium.store.recorder import Recorder
from trivium.store.redis_guard import RedisGuard
from trivium.store.refresher import Refresher
from trivium.store.results import ResultRepository
from trivium.store.runs import RunRepository
from trivium.store.schema import check_schema
from trivium.store.shadows import ShadowRepository
from trivium.telemetry import run_in_background
from trivium.web import add_metrics, add_middleware, service_key_guard

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
        chat.router,
        features.router,
        feedback.router,
        results.router,
        inferences.router,
        costs.router,
        rollouts.router,
        runs.streamed,
        runs.router,
        audit.router,
        health.router,
    ):
        app.include_router(part)
    add_metrics(app, Depends(admin_or_service))
    add_documents(app, Depends(scope("infer", "admin")))
    streamed = re.compile(r"/v1/(features/[^/]+/precompute|chat/completions)")
    short_cut = Middleware(ShortCut, path="/v1/chat/completions", endpoint=chat.chat_completions)
    add_middleware(app, chosen, streamed, short_cut)
    name_all_methods(app)
    describe(app)
    return app


async def _build(settings: GatewaySettings, stack: AsyncExitStack) -> GatewayState:
    loop = asyncio.get_running_loop()
    TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
    catalogue = load_catalogue(settings.features_dir)
    check_promoted(catalogue, settings.environment)
    database = Database(settings.resolved_database_url)
    stack.push_async_callback(database.close)
    await check_schema(database)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
    )
    keys = KeyCache(KeyRepository(database), Guesses(settings.auth_guesses_per_minute))
    await keys.refresh()
    stack.push_async_callback(_note_last_use, keys)
    refreshing = run_in_background(_refresh_for_ever(keys), "keys")
    stack.push_async_callback(_cancel, refreshing)
    flags = UnleashFlags(settings)
    await flags.start()
    stack.push_async_callback(flags.stop)
    recorder = Recorder(
        Journal(settings.state_dir / "journal", settings.journal_max_bytes),
        InferenceRepository(database),
        FeedbackRepository(database),
        ShadowRepository(database),
    )
    recorder.start()
    stack.push_async_callback(recorder.stop)
    backends = make_backends(settings, session, ResultRepository(database))
    breakers = Breakers(partial(breaker_of, on_change=_show_breaker))
    refresher = Refresher(backends.results)
    refresher.start()
    stack.push_async_callback(refresher.stop)
    books = Books(backends.tariff, recorder)
    purse, cache = await _build_purse(settings, database, backends.tariff, stack)
    shadows = Shadows(catalogue, backends, purse, books)
    stack.push_async_callback(shadows.stop)
    serving = Serving(catalogue, backends, flags, breakers, books, refresher, purse, cache, shadows)
    chats = Chats(backends.routes, breakers, books, purse, cache)
    _watch_routes(backends.routes, serving, stack)
    chunks = ChunkRepository(database)
    importer = Importer(database, chunks, ArchiveRepository(database))
    return GatewayState(
        settings,
        catalogue,
        serving,
        chats,
        recorder,
        keys,
        RunRepository(database),
        chunks,
        importer,
        CostRepository(database),
        Statuses(
            Sources(
                Rollouts(DecisionRepository(database), make_flag_admin(settings, session)),
                OutcomeRepository(database),
                AttemptRepository(database),
            )
        ),
        AuditRepository(database),
    )


async def _build_purse(
    settings: GatewaySettings, database: Database, tariff: Tariff, stack: AsyncExitStack
) -> tuple[Purse, ResponseCache]:
    redis = RedisGuard(settings.resolved_redis_url)
    stack.push_async_callback(redis.close)
    limits = Limits(redis, CostRepository(database).spent)
    limits.start()
    stack.push_async_callback(limits.stop)
    cache = ResponseCache(redis)
    stack.push_async_callback(cache.stop)
    return Purse(limits, tariff), cache


def _watch_routes(routes: RouteTable, serving: Serving, stack: AsyncExitStack) -> None:
    """Reads the routes anew when their file has changed, and on SIGHUP."""
    routes.on_change = serving.rebuild
    watching = run_in_background(routes.watch(), "routes")
    stack.push_async_callback(_cancel, watching)
    with suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, routes.reload)


def _show_breaker(target: str, state: int) -> None:
    BREAKER_STATE.labels(target).set(state)


async def _refresh_for_ever(keys: KeyCache) -> None:
    while True:
        await asyncio.sleep(KEYS_REFRESH_S if keys.loaded else 1.0)
        await keys.refresh()
        with suppress(Unavailable):
            await keys.note_use()


async def _note_last_use(keys: KeyCache) -> None:
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(2):
            await keys.note_use(now=True)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
