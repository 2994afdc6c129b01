"""The guard's rounds: every feature, every so often, by one worker for all."""

import asyncio
import time
from contextlib import suppress

import structlog

from trivium.errors import TriviumError
from trivium.features import Catalogue, Feature
from trivium.metrics import GUARD_ACTIONS, GUARD_CHECKS
from trivium.rollouts.guard import Guard
from trivium.store.leases import LeaseRepository

log = structlog.get_logger()
LOOK_S = 30.0
REST = 9.0
"""What is waited after a round, in multiples of what it took: the database has other things to do."""


class GuardRounds:
    """Looks after running rollouts; any number of workers may, and one looks at a feature at a time."""

    def __init__(
        self, catalogue: Catalogue, guard: Guard, leases: LeaseRepository, interval_s: float, name: str
    ) -> None:
        self._catalogue = catalogue
        self._guard = guard
        self._leases = leases
        self._interval_s = self._pause_s = interval_s
        self._name = name
        for feature in catalogue:
            for action in ("roll_back", "hold"):
                GUARD_ACTIONS.labels(feature.name, action)  # at 0, so that the first shows as an increase

    async def run(self) -> None:
        """Looks until cancelled; what is away is tried again in the next round."""
        try:
            while True:
                began = time.monotonic()
                for feature in self._catalogue:
                    await self.look(feature)
                self._pause_s = max(self._interval_s, REST * (time.monotonic() - began))
                await asyncio.sleep(self._pause_s)
        finally:
            with suppress(TriviumError):
                await self._leases.give_up(self._name)

    async def look(self, feature: Feature) -> None:
        """One look at one feature, if no other worker looks after it.

        The lease is kept between the rounds, so that one worker goes on looking after a feature; another
        takes over once it has died. A look ends before its lease does.
        """
        try:
            async with asyncio.timeout(LOOK_S):
                if await self._leases.take(f"guard:{feature.name}", self._name, LOOK_S + self._pause_s):
                    await self._guard.check(feature)
        except (TriviumError, TimeoutError) as error:
            GUARD_CHECKS.labels(feature.name, "away").inc()
            detail = error.detail if isinstance(error, TriviumError) else f"no end within {LOOK_S:g} s"
            log.warning("guard_could_not_look", feature=feature.name, detail=detail)
