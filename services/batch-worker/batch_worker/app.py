"""The worker as a service: ARQ in the background, health and metrics over HTTP."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp
import structlog
from fastapi import Depends, FastAPI

from batch_worker.distances import Distances
from batch_worker.drift_watch import DriftWatch
from batch_worker.figures import Figures
from batch_worker.guard import GuardRounds
from batch_worker.jobs.chunks import ChunkWorker
from batch_worker.jobs.factory import JobFactory
from batch_worker.jobs.imports import Imports
from batch_worker.jobs.neighbours import Spaces
from batch_worker.keeper import Keeper
from batch_worker.retention import RetentionRounds
from batch_worker.settings import WorkerSettings
from batch_worker.worker import BatchWorker
from trivium.documents import add_documents
from trivium.domain.breaker import Breakers, breaker_of
from trivium.drift.checking import DriftCheck
from trivium.errors import Unavailable
from trivium.features import Catalogue, load_catalogue
from trivium.flag_admin import make_flag_admin
from trivium.metrics import BREAKER_STATE, WORKER_SLOTS
from trivium.openapi import Responses, describe, problem
from trivium.patterns.steps import make_backends, make_batch_providers
from trivium.precompute.importing import Importer
from trivium.retention.forgetting import Forgetting
from trivium.rollouts.guard import Guard
from trivium.rollouts.stages import Rollouts
from trivium.rollouts.status import Sources
from trivium.store.archive import ArchiveRepository
from trivium.store.attempts import AttemptRepository
from trivium.store.audit import AuditRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.decisions import DecisionRepository
from trivium.store.drift import DriftRepository
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.figures import FigureRepository
from trivium.store.leases import LeaseRepository
from trivium.store.outcomes import OutcomeRepository
from trivium.store.results import ResultRepository
from trivium.store.runs import RunRepository
from trivium.store.schema import check_schema
from trivium.telemetry import run_in_background
from trivium.web import add_metrics, add_middleware, service_key_guard

log = structlog.get_logger()
SETTLE_REFRESHES = 2.0
"""Refreshes of the flags after which every gateway goes by a change."""
_HEALTH: Responses = {413: problem("The body is too large.")}


def create_app(settings: WorkerSettings | None = None) -> FastAPI:
    """The worker, not yet started."""
    chosen = settings or WorkerSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.worker = await _start(chosen, stack)
            yield

    app = FastAPI(
        title="Trivium batch worker",
        description="Computes ahead of the request; has no interface but health and metrics.",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    guard = Depends(service_key_guard(chosen))

    @app.get("/health/live", responses=_HEALTH)
    async def live() -> dict[str, str]:
        """The event loop turns."""
        return {"status": "live"}

    @app.get("/health/ready", responses={**_HEALTH, 503: problem("Redis is away.")})
    async def ready() -> dict[str, str]:
        """Redis was reached; chunks are taken."""
        worker: BatchWorker = app.state.worker
        if not worker.connected:
            raise Unavailable("Redis is away", retry_after_s=1)
        return {"status": "ready"}

    add_metrics(app, guard)
    add_documents(app, guard)
    add_middleware(app, chosen)
    describe(app, ["/health/live", "/health/ready"])
    return app


async def _start(settings: WorkerSettings, stack: AsyncExitStack) -> BatchWorker:
    catalogue = load_catalogue(settings.features_dir)
    database = Database(settings.resolved_database_url, pool_size=settings.worker_slots + 5)
    stack.push_async_callback(database.close)
    await check_schema(database)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    runs, chunks = RunRepository(database), ChunkRepository(database)
    archive, results = ArchiveRepository(database), ResultRepository(database)
    backends = make_backends(settings, session, results)
    watching = run_in_background(backends.routes.watch(), "routes")
    stack.callback(watching.cancel)
    vendors = make_batch_providers(settings, session)
    breakers = Breakers(partial(breaker_of, on_change=_show_breaker))
    jobs = JobFactory(
        catalogue,
        backends,
        breakers,
        archive,
        Spaces(archive),
        settings.worker_api_at_once,
        vendors,
        chunks,
        settings.worker_batch_poll_s,
    )
    imports = Imports(settings, archive, Importer(database, chunks, archive))
    name = f"{socket.gethostname()}:{os.getpid()}"
    work = ChunkWorker(runs, chunks, archive, results, jobs, imports, settings.worker_lease_s, name)
    worker = BatchWorker(
        settings.resolved_redis_url,
        chunks,
        work,
        settings.worker_slots,
        settings.worker_ring_s,
        settings.worker_grace_s,
    )
    keeper = Keeper(catalogue, runs, results, chunks, vendors)
    keeping = run_in_background(keeper.run(), "keeper")
    stack.push_async_callback(_cancel, keeping)
    distances = Distances(FeedbackRepository(database), LeaseRepository(database), f"{name}:distances")
    filling = run_in_background(distances.run(), "distances")
    stack.push_async_callback(_cancel, filling)
    sources = _sources(settings, database, session)
    leases = LeaseRepository(database)
    routes = backends.routes
    figures = Figures(catalogue, lambda: routes.names, FigureRepository(database), sources, leases, name)
    figuring = run_in_background(figures.run(), "figures")
    stack.push_async_callback(_cancel, figuring)
    forgetting = Forgetting(database, catalogue, settings)
    retention = RetentionRounds(forgetting, leases, settings.retention_every_s, name)
    retiring = run_in_background(retention.run(), "retention")
    stack.push_async_callback(_cancel, retiring)
    if rounds := _guard(settings, catalogue, database, sources, name):
        guarding = run_in_background(rounds.run(), "guard")
        stack.push_async_callback(_cancel, guarding)
    seen = DriftRepository(database)
    watch = DriftWatch(catalogue, DriftCheck(seen, backends.edge), seen, LeaseRepository(database), name)
    drifting = run_in_background(watch.run(), "drift")
    stack.push_async_callback(_cancel, drifting)
    WORKER_SLOTS.set(settings.worker_slots)
    running = run_in_background(worker.run(), "worker")
    stack.push_async_callback(_cancel, running)
    stack.push_async_callback(worker.drain)
    return worker


def _sources(settings: WorkerSettings, database: Database, session: aiohttp.ClientSession) -> Sources | None:
    """What features' statuses are read from; None where this worker is not told where the flags are."""
    settings = settings.model_copy(update={"flags_file": settings.resolved_flags_file})
    if not settings.unleash_url and not settings.flags_file:
        return None
    rollouts = Rollouts(DecisionRepository(database), make_flag_admin(settings, session))
    return Sources(rollouts, OutcomeRepository(database), AttemptRepository(database))


def _guard(
    settings: WorkerSettings, catalogue: Catalogue, database: Database, sources: Sources | None, name: str
) -> GuardRounds | None:
    """The guard; None where this worker is not told where the flags are, which is said once."""
    if sources is None:
        log.warning("guard_off", detail="neither TRIVIUM_UNLEASH_URL nor TRIVIUM_FLAGS_FILE is set")
        return None
    if settings.unleash_url and not settings.unleash_admin_token:
        log.warning("guard_cannot_act", detail="TRIVIUM_UNLEASH_ADMIN_TOKEN is not set")
    settle_s = SETTLE_REFRESHES * settings.flags_refresh_s
    guard = Guard(sources.rollouts, sources.outcomes, sources.attempts, settle_s, AuditRepository(database))
    return GuardRounds(catalogue, guard, LeaseRepository(database), settings.guard_interval_s, name)


def _show_breaker(target: str, state: int) -> None:
    BREAKER_STATE.labels(target).set(state)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
