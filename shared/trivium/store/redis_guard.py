"""Redis within bounds: no call takes long, and after one that failed it is left alone for a moment."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from trivium.metrics import LIMITS_REDIS_UP
from trivium.store.redis_url import redis_url

log = structlog.get_logger()
T = TypeVar("T")
TIMEOUT_S = 0.05
REST_S = 1.0


class RedisAway(Exception):
    """Redis did not answer in time, or is not asked just now."""


class RedisGuard:
    """One client of a process; while Redis is away a single call a second finds out whether it is back."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = Redis.from_url(
            redis_url(url),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self._timeout_s = timeout_s
        self._rests_until = 0.0
        self._away = False
        LIMITS_REDIS_UP.set(1)

    async def call(self, work: "Callable[[Redis], Awaitable[T]]", timeout_s: float | None = None) -> T:
        """What the work gives; raises RedisAway."""
        now = time.monotonic()
        if now < self._rests_until:
            raise RedisAway
        if self._away:
            self._rests_until = now + REST_S  # the others are not to wait for this one
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                made = await work(self._redis)
        except (RedisError, OSError, TimeoutError) as error:
            self._rests_until = time.monotonic() + REST_S
            if not self._away:
                log.warning("redis_away", error=type(error).__name__)
            self._away = True
            LIMITS_REDIS_UP.set(0)
            raise RedisAway from error
        if self._away:
            log.info("redis_back")
            self._away = False
            self._rests_until = 0.0
            LIMITS_REDIS_UP.set(1)
        return made

    def script(self, text: str) -> AsyncScript:
        """A script that is sent once, and then called by its hash."""
        made: AsyncScript = self._redis.register_script(text)
        return made

    async def close(self) -> None:
        """Ends its connections."""
        await self._redis.aclose()
