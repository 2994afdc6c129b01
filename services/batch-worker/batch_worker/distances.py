"""Fills in how far edits and corrections are from their answers, where that was not known when they came."""

import asyncio
import time
from contextlib import suppress

import structlog

from trivium.edit_distance import edit_distance
from trivium.errors import TriviumError, Unavailable
from trivium.store.feedback import FIRST, FeedbackRepository
from trivium.store.leases import LeaseRepository

log = structlog.get_logger()
LEASE = "edit-distances"
EVERY_S = 30.0
LATELY_S = 3_600.0
"""Received within so long, they are looked at every time: most inferences come a moment after them."""
AT_MOST_S = 7 * 86_400.0
"""Within so long once an hour, for what a journal kept while the database was away; older ones no more."""


class Distances:
    """Looks after the distances; any number of workers may, and one does so at a time."""

    def __init__(self, feedback: FeedbackRepository, leases: LeaseRepository, name: str) -> None:
        self._feedback = feedback
        self._leases = leases
        self._name = name

    async def run(self) -> None:
        """Fills in until cancelled; what is away is tried again in the next round."""
        looked_back = -LATELY_S
        try:
            while True:
                thorough = time.monotonic() > looked_back + LATELY_S
                try:
                    if await self._leases.take(LEASE, self._name, 2 * EVERY_S):
                        await self.fill(AT_MOST_S if thorough else LATELY_S)
                        looked_back = time.monotonic() if thorough else looked_back
                except Unavailable:
                    log.warning("database_away")
                await asyncio.sleep(EVERY_S)
        finally:
            with suppress(TriviumError):
                await self._leases.give_up(self._name)

    async def fill(self, within_s: float, portion: int = 500) -> int:
        """Fills in what can be known of what was received within so many seconds; returns how many.

        Raises:
            Unavailable: the database is away; portions until then are stored.
        """
        since, after, filled = time.time() - within_s, FIRST, 0
        while edits := await self._feedback.without_distance(since, after, portion):
            found = {edit.id: edit_distance(edit.answered, edit.value) for edit in edits}
            known = {event: distance for event, distance in found.items() if distance is not None}
            await self._feedback.set_distances(known)
            filled += len(known)
            after = edits[-1].place
        return filled
