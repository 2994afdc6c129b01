"""The worker as a service: ARQ in the background, health and metrics over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
from fastapi import Depends, FastAPI

from batch_worker.jobs.chunks import ChunkWorker
from batch_worker.jobs.neighbours import NeighboursJob
from batch_worker.settings import WorkerSettings
from batch_worker.worker import BatchWorker
from trivium.edge import EdgeClient
from trivium.errors import Unavailable
from trivium.features import load_catalogue
from trivium.store.archive import ArchiveRepository
from trivium.store.engine import Database
from trivium.store.precompute import PrecomputeRepository
from trivium.telemetry import run_in_background
from trivium.web import add_documents, add_metrics, add_middleware, service_key_guard


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

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The event loop turns."""
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        """Redis was reached; chunks are taken."""
        worker: BatchWorker = app.state.worker
        if not worker.connected:
            raise Unavailable("Redis is away", retry_after_s=1)
        return {"status": "ready"}

    add_metrics(app, guard)
    add_documents(app, guard)
    add_middleware(app, chosen)
    return app


async def _start(settings: WorkerSettings, stack: AsyncExitStack) -> BatchWorker:
    catalogue = load_catalogue(settings.features_dir)
    database = Database(settings.resolved_database_url)
    stack.push_async_callback(database.close)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    edge = EdgeClient(settings.resolved_edge_url, settings.service_key.get_secret_value(), session)
    ledger = PrecomputeRepository(database)
    neighbours = NeighboursJob(ArchiveRepository(database), edge)
    chunks = ChunkWorker(ledger, catalogue, neighbours, settings.worker_lease_s)
    worker = BatchWorker(
        settings.resolved_redis_url, ledger, chunks, settings.worker_slots, settings.worker_ring_s
    )
    running = run_in_background(worker.run(), "worker")
    stack.push_async_callback(_cancel, running)
    return worker


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
