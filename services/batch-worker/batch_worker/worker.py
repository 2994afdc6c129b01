"""ARQ, as a doorbell: jobs carry a chunk id; what a job is and whether it is done stands in the database."""

import asyncio
import time
from typing import Any

import orjson
import structlog
from arq import func
from arq.connections import ArqRedis, create_pool
from arq.worker import Worker
from redis.exceptions import RedisError

from batch_worker.jobs.chunks import ChunkWorker
from batch_worker.queue_settings import arq_settings
from trivium.errors import Unavailable
from trivium.metrics import QUEUE_DEPTH
from trivium.store.chunks import ChunkRepository

log = structlog.get_logger()
QUEUE = "trivium:chunks"
POLL_S = 0.02
MIN_BACKOFF_S = 0.2
MAX_BACKOFF_S = 2.0
STOP_S = 5.0
# A chunk that was rung for and not claimed is rung for again after so long, under another job id: ARQ
# holds back a job whose worker died for the longest time-out that a job may have.
RING_AGAIN_S = 10.0
# What has waited longer is forgotten and, if it is still due, rung for anew: ARQ looks only at the oldest
# jobs, and those of workers that died would stand before all others.
FORGET_S = 60.0
LOOK_AT = 200
# No job is cut off by ARQ: leases bound them.
JOB_S = 86_400
PENDING_EVERY_S = 2.0


async def compute_chunk(ctx: dict[str, Any], chunk_id: str) -> None:
    """The one ARQ function."""
    worker: BatchWorker = ctx["worker"]
    await worker.take(chunk_id)


class BatchWorker:
    """ARQ's worker and the reconciler that rings for it; survives Redis and the database being away."""

    def __init__(
        self,
        redis_url: str,
        ledger: ChunkRepository,
        chunks: ChunkWorker,
        slots: int,
        ring_s: float,
        grace_s: float = 0.0,
    ) -> None:
        self._redis_settings = arq_settings(redis_url)
        self._redis_settings.conn_retries = 0
        self._redis_settings.conn_timeout = 2
        self._ledger = ledger
        self._chunks = chunks
        self._slots = slots
        self._ring_s = ring_s
        self._grace_s = grace_s
        self._more = asyncio.Event()
        self._stopping = False
        self._at_work: set[asyncio.Task[None]] = set()
        self.connected = False

    async def run(self) -> None:
        """Works until cancelled; begins anew, with back-off, when Redis goes away."""
        backoff_s = MIN_BACKOFF_S
        while True:
            try:
                pool = await create_pool(
                    self._redis_settings, job_serializer=orjson.dumps, job_deserializer=orjson.loads
                )
                backoff_s = MIN_BACKOFF_S
                await self._run_on(pool)
            except (RedisError, OSError, TimeoutError) as away:
                log.warning("redis_away", error=type(away).__name__)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    async def drain(self) -> None:
        """Takes no more chunks, and gives those under way their grace; run() is to be cancelled then."""
        self._stopping = True
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=self._grace_s)

    async def take(self, chunk_id: str) -> None:
        """Works on a chunk, if it is free; then looks at once for what is next."""
        if self._stopping:
            return
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        try:
            await self._chunks.work(chunk_id)
            self._more.set()
        except Unavailable:
            log.warning("database_away")  # it was not claimed
        finally:
            self._at_work.discard(task)

    async def _run_on(self, pool: ArqRedis) -> None:
        """Rings and works until one of the two fails, and raises what it failed with."""
        self.connected = True
        both = {asyncio.create_task(self._ring(pool)), asyncio.create_task(self._work(pool))}
        try:
            ended, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connected = False
            for task in both:
                task.cancel()
            # Bounded, because a database driver that is just connecting may swallow a cancellation.
            await asyncio.wait(both, timeout=STOP_S)
            await pool.aclose()
        for task in ended:
            task.result()

    async def _work(self, pool: ArqRedis) -> None:
        worker = Worker(
            functions=[func(compute_chunk, name="compute_chunk", keep_result=0, max_tries=1)],
            queue_name=QUEUE,
            redis_pool=pool,
            handle_signals=False,
            max_jobs=self._slots,
            job_timeout=JOB_S,
            poll_delay=POLL_S,
            queue_read_limit=max(LOOK_AT, self._slots * 8),
            retry_jobs=False,
            log_results=False,
            ctx={"worker": self},
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
        )
        try:
            await worker.async_run()
        finally:
            for task in worker.tasks.values():
                task.cancel()
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)

    async def _ring(self, pool: ArqRedis) -> None:
        """Keeps about twice the slots rung: at an interval, and as soon as a chunk has ended.

        A job's id names chunk and token, so one that waits in Redis already is not rung twice, and a chunk
        whose lease ended is a new job.
        """
        counted = 0.0
        while self.connected:
            self._more.clear()
            try:
                window = int(time.time() / RING_AGAIN_S)
                for chunk_id, token in await self._ledger.to_ring(self._slots * 2):
                    job_id = f"{chunk_id}:{token}:{window}"
                    await pool.enqueue_job(
                        "compute_chunk", chunk_id, _job_id=job_id, _queue_name=QUEUE, _expires=2 * FORGET_S
                    )
                if time.monotonic() > counted + PENDING_EVERY_S:
                    await pool.zremrangebyscore(QUEUE, "-inf", (time.time() - FORGET_S) * 1000)
                    QUEUE_DEPTH.labels("chunks").set(await self._ledger.pending())
                    counted = time.monotonic()
            except Unavailable:
                log.warning("database_away")
            try:
                async with asyncio.timeout(self._ring_s):
                    await self._more.wait()
            except TimeoutError:
                pass
