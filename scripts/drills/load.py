"""Open-loop load of the three patterns and of feedback; what became of every request."""

import asyncio
import itertools
import math
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

Outcome = Literal["answered", "degraded", "refused", "failed", "late", "hung"]
HUNG_S = 15.0
LATE_S = 1.0
"""Beyond its deadline; what the caller itself must add for the network and this busy machine."""
REFUSALS = (429, 503)
BAD: frozenset[Outcome] = frozenset({"refused", "failed", "late", "hung"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request: how often a second it comes, and by when it wants its answer."""

    name: str
    rate: float
    deadline_s: float
    path: str
    body: Callable[[int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of a request that was due at `at`, on time.monotonic's clock; `kept` must be stored."""

    kind: str
    at: float
    outcome: Outcome
    seconds: float
    kept: str | None = None
    told: str = ""


@dataclass(slots=True)
class Load:
    """Requests at their times, whether the ones before were answered or not."""

    url: str
    key: str
    kinds: list[Kind]
    samples: list[Sample] = field(default_factory=list)
    answered_ids: list[str] = field(default_factory=list)
    _tasks: dict[asyncio.Task[None], float] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=HUNG_S)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
            try:
                await asyncio.gather(*(self._send(session, kind) for kind in self.kinds))
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def oldest_due(self) -> float:
        """When the oldest request without an outcome was due."""
        return min(self._tasks.values(), default=math.inf)

    async def _send(self, session: aiohttp.ClientSession, kind: Kind) -> None:
        due = time.monotonic()
        while True:
            due += random.expovariate(kind.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(session, kind, due))
            self._tasks[task] = due
            task.add_done_callback(self._tasks.pop)

    async def _ask(self, session: aiohttp.ClientSession, kind: Kind, due: float) -> None:
        number = next(self._numbers)
        body, headers = kind.body(number), {"Idempotency-Key": str(uuid.uuid4())}
        if kind.name == "feedback":
            if not self.answered_ids:
                return
            body["inference_id"] = random.choice(self.answered_ids[-200:])
        kept, told = None, ""
        try:
            async with session.post(self.url + kind.path, json=body, headers=headers) as response:
                answer = await response.json(content_type=None)
                status, told = response.status, str(answer.get("code") or answer.get("fallback_reason"))
            seconds = time.monotonic() - due
            outcome = _outcome(status, answer, seconds > kind.deadline_s + LATE_S)
            if status in (200, 201):
                kept = str(answer.get("inference_id") if kind.name != "feedback" else answer["feedback_id"])
                if kind.name == "triage":
                    self.answered_ids.append(kept)
        except TimeoutError:
            outcome, seconds = "hung", time.monotonic() - due
        except (aiohttp.ClientError, ValueError) as error:
            outcome, seconds, told = "failed", time.monotonic() - due, type(error).__name__
        self.samples.append(Sample(kind.name, due, outcome, seconds, kept, told))


def _outcome(status: int, answer: dict[str, Any], late: bool) -> Outcome:
    if status in REFUSALS:
        return "refused"
    if status not in (200, 201):
        return "failed"
    if late:
        return "late"
    return "degraded" if answer.get("degraded") else "answered"
