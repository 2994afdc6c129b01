"""Wishes to compute a result anew, noted off the hot path and once."""

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress

import structlog

from trivium.errors import Unavailable
from trivium.metrics import REFRESHES
from trivium.store.archive import input_hash
from trivium.store.results import Refresh, ResultRepository
from trivium.telemetry import run_in_background

log = structlog.get_logger()
FLUSH_S = 0.1
RETRY_S = 1.0
# Wishes that wait for the database; what does not fit is wished again when the result is next read.
MOST = 10_000
# Seconds in which this process does not wish the same again. The database holds one wish an entity anyway.
AGAIN_S = 5.0
_Of = tuple[str, str, str]


class Refresher:
    """Takes wishes at once; a background task notes them in the database."""

    def __init__(self, results: ResultRepository) -> None:
        self._results = results
        self._waiting: dict[_Of, Refresh] = {}
        self._lately: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to note wishes."""
        self._task = run_in_background(self._run(), "refresher")

    async def stop(self) -> None:
        """Notes what waits, if the database is there."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(2):
                await self.flush()

    def ask(self, wish: Refresh) -> None:
        """Takes a wish; never waits."""
        of = (wish.feature, wish.variant, wish.entity_key)
        same = (*of, wish.reason, input_hash(wish.record) if wish.record else "")
        now = time.monotonic()
        if self._lately.get(same, -AGAIN_S) > now - AGAIN_S and wish.reason != "correction":
            return
        if of not in self._waiting and len(self._waiting) >= MOST:
            return
        self._waiting[of] = wish
        self._lately[same] = now
        self._lately.move_to_end(same)
        if len(self._lately) > MOST:
            self._lately.popitem(last=False)
        REFRESHES.labels(wish.feature, wish.variant, wish.reason).inc()

    async def flush(self) -> None:
        """Notes what waits; raises Unavailable, and keeps it, if the database is away."""
        # In one order, so that two gateways never wait for each other.
        taken = sorted(self._waiting.items(), key=lambda item: item[0])
        if not taken:
            return
        try:
            await self._results.ask([wish for _, wish in taken])
        except Unavailable:
            raise
        except Exception as error:  # whatever it is, later wishes must get through
            log.error("refreshes_dropped", count=len(taken), exc_info=error)
        for of, wish in taken:
            if self._waiting.get(of) is wish:
                del self._waiting[of]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Unavailable:
                log.warning("refreshes_wait", waiting=len(self._waiting))
                await asyncio.sleep(RETRY_S)
