"""The rounds of retention: what may go, goes; by one worker for all."""

import asyncio
import time
from collections import Counter
from contextlib import suppress

import structlog

from trivium.errors import TriviumError
from trivium.metrics import RETENTION_DELETED, RETENTION_LAST_SUCCESS
from trivium.retention.forgetting import Forgetting
from trivium.store.leases import LeaseRepository

log = structlog.get_logger()
LEASE = "retention"
LEASE_S = 120.0
"""Longer than a window takes; it is prolonged while windows follow each other."""
PROLONG_S = 30.0


class RetentionRounds:
    """Forgets every so often; any number of workers may, and one does so at a time."""

    def __init__(self, forgetting: Forgetting, leases: LeaseRepository, every_s: float, name: str) -> None:
        self._forgetting = forgetting
        self._leases = leases
        self._every_s = every_s
        self._holder = f"{name}/retention"

    async def run(self) -> None:
        """Forgets until cancelled; what is away is tried again in the next round."""
        try:
            while True:
                try:
                    await self._forgetting.know()
                    await self.forget()
                except TriviumError as error:
                    log.warning("retention_cut_short", detail=error.detail)
                await asyncio.sleep(self._every_s)
        finally:
            with suppress(TriviumError):
                await self._leases.give_up(self._holder)

    async def forget(self) -> bool:
        """One round; False if another worker does it, or took over.

        It rests after each window for as long as that took: the database has other things to do.

        Raises:
            Unavailable: the database is away; what was done until then holds.
        """
        if not await self._take():
            return False
        taken = began = time.monotonic()
        gone: Counter[str] = Counter()
        async for _, step in self._forgetting.run():
            for table, rows in step.counts.items():
                RETENTION_DELETED.labels(table).inc(rows)
            gone += step.counts
            if time.monotonic() > taken + PROLONG_S:
                if not await self._take():
                    return False
                taken = time.monotonic()
            await asyncio.sleep(time.monotonic() - began)
            began = time.monotonic()
        RETENTION_LAST_SUCCESS.set_to_current_time()
        if gone:
            log.info("forgotten", **gone)
        # Others wait for their turn until a round is due again.
        await self._leases.take(LEASE, self._holder, self._every_s)
        return True

    async def _take(self) -> bool:
        return await self._leases.take(LEASE, self._holder, LEASE_S)
