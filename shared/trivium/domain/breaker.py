"""Circuit breakers: a target that failed too often lately is not asked for a while.

Each process has its own. What one gateway sees of a target is often its own network, and a shared breaker
would be one more server on the hot path, whose trouble would shut or open every target at once; the price is
that each process finds a dead target out for itself, by a few calls.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]
MAX_RETRY_AFTER_S = 60.0
MAX_TARGETS = 2_000


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to make one call; what it says of the target counts only while the breaker is as it was."""

    epoch: int
    probe: bool


@dataclass(slots=True)
class Breaker:
    """Opens when at least `ratio` of at least `min_samples` calls of the last `window_s` failed.

    After `cool_s` one probe is let through; its success closes the breaker, its failure opens it
    again, for twice as long, up to `max_cool_s`. Calls that began before it opened or closed are not
    counted when they end: a burst that fails together opens it once, a straggler closes nothing. What
    the target itself asked to be spared is kept, up to MAX_RETRY_AFTER_S.
    """

    target: str
    clock: Clock = time.monotonic
    on_change: Callable[[str, int], None] = lambda target, state: None
    ratio: float = 0.5
    min_samples: int = 5
    window_s: float = 30.0
    cool_s: float = 2.0
    max_cool_s: float = 30.0
    _slots: deque[list[float]] = field(default_factory=deque)
    """[when it began, calls, failures] of each hundredth of the window: a call costs the same at any rate."""
    _calls: int = 0
    _failed: int = 0
    _epoch: int = 0
    _open_until: float = 0.0
    _cooling_s: float = 0.0
    _probe_until: float = 0.0

    @property
    def state(self) -> int:
        """0 closed, 1 half open, 2 open."""
        if not self._cooling_s:
            return 0
        return 2 if self.clock() < self._open_until else 1

    def admit(self, may_probe: bool = True) -> Admission | None:
        """Leave for a call now, or None; half open, for one at a time.

        A call that has not the time to tell much of the target (`may_probe=False`) probes only if none
        that has it came for as long again.
        """
        if not self._cooling_s:
            return Admission(self._epoch, probe=False)
        now = self.clock()
        if now < max(self._open_until, self._probe_until):
            return None
        if not may_probe and now < self._open_until + self._cooling_s:
            return None
        self._probe_until = self.clock() + self.max_cool_s
        self.on_change(self.target, 1)
        return Admission(self._epoch, probe=True)

    def record(self, admission: Admission, ok: bool, retry_after_s: float | None = None) -> None:
        """Notes how a call ended; `retry_after_s` is what the target asked for."""
        if admission.epoch != self._epoch:
            return
        if admission.probe:
            if ok:
                self._close()
            else:
                self._open(min(self._cooling_s * 2, self.max_cool_s), retry_after_s)
            return
        self._count(ok)
        if self._calls >= self.min_samples and self._failed >= self.ratio * self._calls:
            self._open(self.cool_s, retry_after_s)

    def forget(self, admission: Admission) -> None:
        """Gives back an admission whose call says nothing of the target."""
        if admission.probe and admission.epoch == self._epoch:
            self._probe_until = 0.0

    def doubt(self, admission: Admission) -> None:
        """Takes back an admission whose call had not the time to tell: a probe's cooling begins again."""
        if admission.probe and admission.epoch == self._epoch:
            self._open(self._cooling_s, None)

    def _count(self, ok: bool) -> None:
        now, slots = self.clock(), self._slots
        while slots and slots[0][0] < now - self.window_s:
            _, calls, failed = slots.popleft()
            self._calls -= int(calls)
            self._failed -= int(failed)
        if not slots or now - slots[-1][0] >= self.window_s / 100:
            slots.append([now, 0, 0])
        slots[-1][1] += 1
        slots[-1][2] += not ok
        self._calls += 1
        self._failed += not ok

    def _open(self, cool_s: float, retry_after_s: float | None) -> None:
        self._cooling_s = cool_s
        until = self.clock() + max(cool_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
        self._open_until = max(self._open_until, until)
        self._turn_over(2)

    def _close(self) -> None:
        self._cooling_s = 0.0
        self._open_until = 0.0
        self._turn_over(0)

    def _turn_over(self, state: int) -> None:
        self._epoch += 1
        self._probe_until = 0.0
        self._slots.clear()
        self._calls = self._failed = 0
        self.on_change(self.target, state)


def _untold(target: str, state: int) -> None:
    """Nobody asked to be told."""


def breaker_of(target: str, on_change: Callable[[str, int], None] = _untold) -> Breaker:
    """The breaker of a target: vendors are found out sooner than our own servers, and asked again sooner."""
    if target == "store" or target.startswith("edge/"):
        return Breaker(target, on_change=on_change)
    return Breaker(target, on_change=on_change, min_samples=3, max_cool_s=8.0)


class Breakers:
    """One breaker a target; beyond MAX_TARGETS, the one that was used longest ago is forgotten."""

    def __init__(self, make: Callable[[str], Breaker] = Breaker) -> None:
        self._make = make
        self._by_target: OrderedDict[str, Breaker] = OrderedDict()

    def of(self, target: str) -> Breaker:
        """The target's breaker, made at its first use."""
        breaker = self._by_target.get(target)
        if breaker is None:
            breaker = self._by_target[target] = self._make(target)
            if len(self._by_target) > MAX_TARGETS:
                self._by_target.popitem(last=False)
        self._by_target.move_to_end(target)
        return breaker
