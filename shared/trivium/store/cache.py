"""Answers that are kept for the very same question of the same caller, in Redis; trouble there is a miss."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from trivium.metrics import CACHE
from trivium.store.redis_guard import RedisAway, RedisGuard

log = structlog.get_logger()
MAX_BYTES = 262_144
_MAX_WAITING = 256


class ResponseCache:
    """Exact matches only: a key holds caller, version and the whole input."""

    def __init__(self, redis: RedisGuard) -> None:
        self._redis = redis
        self._putting: set[asyncio.Task[None]] = set()

    @staticmethod
    def key_of(key_id: str, version: str, given: Mapping[str, Any]) -> str:
        """The key of a question: SHA-256 of all that decides its answer."""
        canonical = orjson.dumps([key_id, version, given], option=orjson.OPT_SORT_KEYS)
        return f"trivium:cache:{hashlib.sha256(canonical).hexdigest()}"

    async def get(self, owner: str, key: str) -> Any | None:
        """What is kept, or None."""
        try:
            raw = await self._redis.call(lambda redis: redis.get(key))
        except RedisAway:
            CACHE.labels(owner, "away").inc()
            return None
        CACHE.labels(owner, "miss" if raw is None else "hit").inc()
        return None if raw is None else orjson.loads(raw)

    def put(self, key: str, value: Any, ttl_s: int) -> None:
        """Keeps an answer in the background; one that is too large, or too many at once, is not kept."""
        raw = orjson.dumps(value)
        if len(raw) > MAX_BYTES or len(self._putting) >= _MAX_WAITING:
            return
        task = asyncio.ensure_future(self._put(key, raw, ttl_s))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)

    async def stop(self) -> None:
        """Waits for what is being kept."""
        if self._putting:
            await asyncio.wait(self._putting, timeout=1.0)

    async def _put(self, key: str, raw: bytes, ttl_s: int) -> None:
        try:
            await self._redis.call(lambda redis: redis.set(key, raw, ex=ttl_s))
        except RedisAway:
            log.debug("answer_not_kept")
