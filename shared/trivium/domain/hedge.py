"""Hedged requests: when the first target is slower than usual, a second is asked beside it.

"The Tail at Scale", Dean and Barroso, 2013.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from trivium.domain.fallback import Answered, Step, Walk
from trivium.domain.inference import Attempt
from trivium.errors import StepError

Q = TypeVar("Q")
A = TypeVar("A", bound=Answered)
LOST = "hedge_lost"
"""The outcome of the slower of two attempts, ended when the other had answered."""
MIN_SAMPLES = 20
KEPT = 200
_MAX_SAVED = 10.0


@dataclass(slots=True)
class Hedging:
    """When to ask a second target, from the first's recent latencies, and how often at most.

    Every request saves `max_share` of a second call, and a second call spends a whole one.
    """

    quantile: float
    min_delay_s: float
    max_share: float
    _latencies: dict[str, deque[float]] = field(default_factory=dict)
    _saved: float = 0.0

    def delay_s(self, target: str) -> float | None:
        """How long to wait for a target alone; None while too little is known of it."""
        known = self._latencies.get(target)
        if known is None or len(known) < MIN_SAMPLES:
            return None
        return max(self.min_delay_s, sorted(known)[min(len(known) - 1, int(self.quantile * len(known)))])

    def answered(self, target: str, seconds: float) -> None:
        """Notes how long a target took."""
        self._latencies.setdefault(target, deque(maxlen=KEPT)).append(seconds)

    def save(self) -> None:
        """A request came."""
        self._saved = min(_MAX_SAVED, self._saved + self.max_share)

    def spend(self) -> bool:
        """Whether a second call may be made now; it is counted."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


async def ask_hedged(
    walk: Walk[Q, A], steps: Sequence[Step[Q, A]], hedging: Hedging
) -> tuple[A, int] | tuple[StepError, int]:
    """Asks the first step, and the second beside it if that takes unusually long.

    Returns the answer and the position of the step that gave it; or an error, and the position of the last
    step that was asked. What the loser is billed for is taken to be what the winner was.
    """
    hedging.save()
    asking = _timed(walk, steps, 0, hedging)
    first = asyncio.create_task(asking)
    delay = hedging.delay_s(steps[0].target)
    tasks = {first: 0}
    try:
        if delay is not None and len(steps) > 1:
            done, _ = await asyncio.wait({first}, timeout=min(delay, walk.deadline.left_s()))
            if not done and hedging.spend():
                beside = _timed(walk, steps, 1, hedging)
                tasks[asyncio.create_task(beside)] = 1
        return await _first_answer(walk, tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _timed(
    walk: Walk[Q, A], steps: Sequence[Step[Q, A]], position: int, hedging: Hedging
) -> A | StepError:
    step = steps[position]
    budget = walk.budget_of(step, len(steps) - position)
    started = walk.deadline.clock()
    outcome = await walk.ask(step, budget, last=position == len(steps) - 1)
    if not isinstance(outcome, StepError):
        hedging.answered(step.target, walk.deadline.clock() - started)
    return outcome


async def _first_answer(
    walk: Walk[Q, A], tasks: "dict[asyncio.Task[A | StepError], int]"
) -> tuple[A, int] | tuple[StepError, int]:
    waiting = set(tasks)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            outcome = task.result()
            if not isinstance(outcome, StepError):
                await _end(walk, waiting, outcome)
                return outcome, tasks[task]
        if not waiting:
            assert isinstance(outcome, StepError)
            return outcome, max(tasks.values())


async def _end(walk: Walk[Q, A], losers: "set[asyncio.Task[A | StepError]]", winner: A) -> None:
    """Ends the slower calls, and counts what they are likely to cost."""
    for task in losers:
        known = len(walk.attempts)
        task.cancel()
        await asyncio.wait({task})
        for place, attempt in enumerate(walk.attempts[known:], start=known):
            walk.attempts[place] = _lost(attempt, winner)


def _lost(attempt: Attempt, winner: Answered) -> Attempt:
    told = "ended when the other had answered; its tokens are taken to be the other's"
    return replace(attempt, outcome=LOST, usage=winner.usage, detail=told)
