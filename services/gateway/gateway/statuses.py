"""Features' statuses, counted at most every few seconds: whoever polls them must not hurt the database."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from trivium.features import Feature
from trivium.rollouts.status import FeatureStatus, Sources, parts_of, status_of
from trivium.store.decisions import DecisionRepository
from trivium.store.outcomes import Part

FRESH_S = 10.0
REST = 9.0
"""What was counted is kept so many times as long as it took, if that is longer."""


@dataclass(slots=True)
class Statuses:
    """One status a feature, counted by one request at a time."""

    sources: Sources
    _known: dict[tuple[str, str], tuple[float, Any]] = field(default_factory=dict)
    _counting: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @property
    def decisions(self) -> DecisionRepository:
        """Where they are recorded."""
        return self.sources.rollouts.decisions

    async def of(self, feature: Feature) -> FeatureStatus:
        """The status, at most FRESH_S old, or REST times what it took; raises Unavailable."""
        status: FeatureStatus = await self._kept(feature.name, "", lambda: status_of(feature, self.sources))
        return status

    async def parts(self, feature: Feature, by: str) -> list[Part]:
        """The metrics by `day`, `variant` or `stage`, as old as a status; raises Unavailable."""
        parts: list[Part] = await self._kept(feature.name, by, lambda: parts_of(feature, self.sources, by))
        return parts

    async def _kept(self, feature: str, by: str, count: Callable[[], Awaitable[Any]]) -> Any:
        async with self._counting[feature]:
            until, found = self._known.get((feature, by), (0.0, None))
            began = time.monotonic()
            if found is None or began > until:
                found = await count()
                ended = time.monotonic()
                self._known[feature, by] = ended + max(FRESH_S, REST * (ended - began)), found
            return found
