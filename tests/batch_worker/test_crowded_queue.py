"""ARQ looks only at the oldest jobs of its queue: those of dead workers must not stand before all others."""

import time
from pathlib import Path

from redis import Redis

from batch_worker.worker import FORGET_S, LOOK_AT, QUEUE
from support.postgres import Postgres
from support.valkey import Valkey
from support.workers import Workers, make_features
from trivium.store.engine import migrate


async def test_more_jobs_of_dead_workers_than_arq_looks_at_starve_nobody(
    tmp_path: Path, postgres: Postgres
) -> None:
    (tmp_path / "valkey").mkdir()
    with Valkey(tmp_path / "valkey") as valkey:
        redis = Redis.from_url(valkey.url)
        long_ago = int((time.time() - FORGET_S - 5) * 1000)
        for number in range(LOOK_AT + 50):
            redis.zadd(QUEUE, {f"dead-{number}": long_ago})
            redis.set(f"arq:in-progress:dead-{number}", b"1")
        workers = Workers(tmp_path, make_features(tmp_path), postgres.new_database(), valkey.url)
        await migrate(workers.database)
        records = {f"M-{n}": {"text": "card_arrival"} for n in range(200)}
        with workers.running(1):
            run = await workers.ended(await workers.begin("by-template", records), 40)
        await workers.account("by-template", records, run)
        await workers.database.close()
        redis.close()
