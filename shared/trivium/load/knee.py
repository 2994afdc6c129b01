"""The highest rate that a target holds, and how it does below and above it."""

import math
from dataclasses import dataclass

from trivium.load.result import Goal, StageResult
from trivium.load.side import settle
from trivium.load.stage import Monitor, Plan, run_stage
from trivium.load.target import Target

SHARES = (0.5, 1.0, 1.2, 2.0)
STEPS_BACK = 6
RECOVERY_S = 30.0
NARROW = 0.9


@dataclass(frozen=True, slots=True)
class Search:
    """How the knee is looked for: rates in requests a second, the precision as a share of the rate.

    A searching stage that misses narrowly is tried again, up to `tries` times in all: on a machine
    that is shared, one stall of somebody else's would halve the knee. The confirming stage has one.
    """

    start_rate: float = 50.0
    lowest_rate: float = 1.0
    highest_rate: float = 20_000.0
    step_seconds: float = 5.0
    confirm_seconds: float = 15.0
    warm_up_seconds: float = 3.0
    growth: float = 2.0
    precision: float = 0.05
    tries: int = 2


@dataclass(frozen=True, slots=True)
class Knee:
    """The highest rate that held, None if none did, and every stage on the way.

    `limited_by` says what stood above it: `target`, `generator` (the stage that missed was
    saturated on our side), `highest_rate`, `gone` (the target did not recover from an overload) or
    `interrupted`.
    """

    rate: float | None
    limited_by: str
    stages: tuple[StageResult, ...]


class _EndedError(Exception):
    """The search is over; `why` is for `limited_by`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Seeker:
    def __init__(self, target: Target, goal: Goal, plan: Plan, monitor: Monitor) -> None:
        self.stages: list[StageResult] = []
        self.limited_by = "target"
        self._target, self._goal, self._plan, self._monitor = target, goal, plan, monitor

    async def stage(self, rate: float, seconds: float, label: str) -> bool:
        """Whether a rate holds; waits after a miss until the target has recovered."""
        if self._monitor.stop.is_set():
            raise _EndedError("interrupted")
        result = await run_stage(self._target, rate, seconds, self._plan, self._monitor, label)
        self.stages.append(result)
        if self._monitor.stop.is_set():
            raise _EndedError("interrupted")
        if not result.misses(self._goal):
            return True
        self.limited_by = "generator" if result.generator_saturated else "target"
        if not await settle(self._target, RECOVERY_S):
            raise _EndedError("gone")
        return False

    async def search(self, rate: float, search: Search) -> bool:
        """Whether a rate holds, at the second try if the first missed narrowly."""
        for _ in range(search.tries):
            if await self.stage(rate, search.step_seconds, "search"):
                return True
            if not _missed_narrowly(self.stages[-1], self._goal):
                break
        return False

    async def bracket(self, search: Search) -> tuple[float, float]:
        """A rate that holds and a higher one that does not; 0 or infinity where there is none."""
        low, high, rate = 0.0, math.inf, search.start_rate
        while low == 0.0 or high == math.inf:
            if await self.search(rate, search):
                low, rate = rate, min(rate * search.growth, search.highest_rate)
                if low >= search.highest_rate:
                    break
            else:
                high, rate = rate, rate / search.growth
                if rate < search.lowest_rate:
                    break
        return low, high

    async def seek(self, search: Search) -> float | None:
        """Warms up, brackets, bisects and confirms by a longer stage, stepping back as needed."""
        if search.warm_up_seconds:
            await self.stage(search.start_rate, search.warm_up_seconds, "warm-up")
        low, high = await self.bracket(search)
        while low and high != math.inf and high / low > 1 + search.precision:
            middle = math.sqrt(low * high)
            if await self.search(middle, search):
                low = middle
            else:
                high = middle
        if high == math.inf:
            self.limited_by = "highest_rate"
        for _ in range(STEPS_BACK if low else 0):
            if await self.stage(low, search.confirm_seconds, "confirm"):
                return low
            low /= 1 + search.precision
        return None


def _missed_narrowly(stage: StageResult, goal: Goal) -> bool:
    in_reach = stage.latency is not None and stage.latency.p99_ms <= 2 * goal.p99_ms
    return in_reach and stage.goodput_share >= NARROW * goal.goodput and not stage.errors


async def find_knee(
    target: Target,
    goal: Goal | None = None,
    search: Search | None = None,
    plan: Plan | None = None,
    monitor: Monitor | None = None,
) -> Knee:
    """Grows the rate until the goal is missed, bisects, and confirms the highest rate that held.

    If the start rate is missed already, it shrinks first. Ends early, with no rate, when the target
    goes away or `monitor.stop` is set.

    Raises:
        OSError: the target's name does not resolve.
    """
    seeker = _Seeker(target, goal or Goal(), plan or Plan(), monitor or Monitor())
    try:
        rate = await seeker.seek(search or Search())
    except _EndedError as ended:
        return Knee(None, ended.why, tuple(seeker.stages))
    return Knee(rate, seeker.limited_by, tuple(seeker.stages))


async def sweep(
    target: Target,
    goal: Goal | None = None,
    search: Search | None = None,
    plan: Plan | None = None,
    monitor: Monitor | None = None,
) -> tuple[Knee, list[StageResult]]:
    """Finds the knee, then measures 50, 100, 120 and 200 % of it for `confirm_seconds` each.

    Raises:
        OSError: the target's name does not resolve.
    """
    goal, search, plan, monitor = goal or Goal(), search or Search(), plan or Plan(), monitor or Monitor()
    knee = await find_knee(target, goal, search, plan, monitor)
    seeker = _Seeker(target, goal, plan, monitor)
    try:
        for share in SHARES if knee.rate else ():
            await seeker.stage((knee.rate or 0.0) * share, search.confirm_seconds, f"{share:.0%}")
    except _EndedError:
        pass
    return knee, seeker.stages
