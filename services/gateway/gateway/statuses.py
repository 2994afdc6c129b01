"""Features' statuses, counted at most every few seconds: whoever polls them must not hurt the database."""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field

from trivium.features import Feature
from trivium.rollouts.stages import Rollouts
from trivium.rollouts.status import FeatureStatus, status_of
from trivium.store.decisions import DecisionRepository
from trivium.store.outcomes import OutcomeRepository

FRESH_S = 10.0


@dataclass(slots=True)
class Statuses:
    """One status a feature, counted by one request at a time."""

    rollouts: Rollouts
    outcomes: OutcomeRepository
    _known: dict[str, tuple[float, FeatureStatus]] = field(default_factory=dict)
    _counting: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @property
    def decisions(self) -> DecisionRepository:
        """Where they are recorded."""
        return self.rollouts.decisions

    async def of(self, feature: Feature) -> FeatureStatus:
        """The status, at most FRESH_S old; raises Unavailable."""
        async with self._counting[feature.name]:
            at, status = self._known.get(feature.name, (0.0, None))
            if status is None or time.monotonic() > at + FRESH_S:
                status = await status_of(feature, self.rollouts, self.outcomes)
                self._known[feature.name] = time.monotonic(), status
            return status
