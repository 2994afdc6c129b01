"""Jobs a second of ARQ with one job a row: `python arq_rows.py <redis url> <jobs>`; prints the figure."""

import asyncio
import sys
import time
from typing import Any

from arq import func
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker


async def no_op(ctx: dict[str, Any], key: str) -> None:
    """A row that costs nothing."""


async def main(url: str, jobs: int) -> None:
    """Enqueues all, then works them off; the enqueueing counts too, because each row needs it."""
    pool = await create_pool(RedisSettings.from_dsn(url), default_queue_name="bench:rows")
    started = time.perf_counter()
    for at in range(0, jobs, 200):
        await asyncio.gather(
            *(pool.enqueue_job("no_op", f"N-{n:09d}") for n in range(at, min(at + 200, jobs)))
        )
    worker = Worker(
        functions=[func(no_op, name="no_op", keep_result=0)],
        queue_name="bench:rows",
        redis_pool=pool,
        burst=True,
        handle_signals=False,
        max_jobs=100,
        poll_delay=0.01,
        queue_read_limit=1_000,
        log_results=False,
    )
    await worker.async_run()
    print(jobs / (time.perf_counter() - started))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
