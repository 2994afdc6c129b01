"""The fallback chain: ordered steps under one deadline, breakers, bounded retries, a static end.

A step fails on a StepError and the chain goes on; any other exception is a programming error and
is not swallowed. The deadline holds even if a step ignores its cancellation: the chain waits for a
step's task, never for the end of its clean-up.
"""

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trivium.domain.inference import Attempt, Question, ServedBy, StepAnswer, Usage
from trivium.errors import BreakerOpen, StepError, StepTimeout
from trivium.waiting import TookTooLong, at_most

STATIC: Literal["static"] = "static"
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_FIRST_SENTENCE_MAX = 280
# A caller may set a deadline that nobody can meet: a timeout tells of the target only if it had nearly
# the time that the manifest grants, and only such a call may be the probe.
TELLING_SHARE = 0.9

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after_ms(cls, milliseconds: float, clock: Clock = time.monotonic) -> "Deadline":
        """The deadline that long from now."""
        return cls(clock() + milliseconds / 1000, clock)

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock())


@dataclass(frozen=True, slots=True)
class Step:
    """One target of one variant. `ask` gets the question and its seconds, and must raise StepErrors."""

    served_by: ServedBy
    target: str
    ask: Callable[[Question, float], Awaitable[StepAnswer]]
    retries: int = 0
    timeout_s: float | None = None
    granted_s: float = 0.0
    """Seconds that the manifest's own deadline leaves this step."""


@dataclass(slots=True)
class ChainResult:
    """The answer, who gave it, why the first step did not, and every try."""

    answer: StepAnswer
    served_by: ServedBy
    fallback_reason: str | None
    attempts: list[Attempt]


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
    counted when they end: a burst that fails together opens it once, a straggler closes nothing.
    """

    target: str
    clock: Clock = time.monotonic
    on_change: Callable[[str, int], None] = lambda target, state: None
    ratio: float = 0.5
    min_samples: int = 5
    window_s: float = 30.0
    cool_s: float = 2.0
    max_cool_s: float = 30.0
    _calls: deque[tuple[float, bool]] = field(default_factory=deque)
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
        """Leave for a call now, or None; half open, for one at a time that has the time to probe."""
        match self.state:
            case 0:
                return Admission(self._epoch, probe=False)
            case 2:
                return None
        if not may_probe or self.clock() < self._probe_until:
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
        now = self.clock()
        self._calls.append((now, ok))
        while self._calls and self._calls[0][0] < now - self.window_s:
            self._calls.popleft()
        failed = sum(not success for _, success in self._calls)
        if len(self._calls) >= self.min_samples and failed >= self.ratio * len(self._calls):
            self._open(self.cool_s, retry_after_s)

    def forget(self, admission: Admission) -> None:
        """Gives back an admission whose call says nothing of the target."""
        if admission.probe and admission.epoch == self._epoch:
            self._probe_until = 0.0

    def _open(self, cool_s: float, retry_after_s: float | None) -> None:
        self._cooling_s = cool_s
        until = self.clock() + max(cool_s, min(retry_after_s or 0.0, self.max_cool_s))
        self._open_until = max(self._open_until, until)
        self._turn_over(2)

    def _close(self) -> None:
        self._cooling_s = 0.0
        self._open_until = 0.0
        self._turn_over(0)

    def _turn_over(self, state: int) -> None:
        self._epoch += 1
        self._probe_until = 0.0
        self._calls.clear()
        self.on_change(self.target, state)


class Breakers:
    """One breaker a target."""

    def __init__(self, make: Callable[[str], Breaker] = Breaker) -> None:
        self._make = make
        self._by_target: dict[str, Breaker] = {}

    def of(self, target: str) -> Breaker:
        """The target's breaker, made at its first use."""
        if target not in self._by_target:
            self._by_target[target] = self._make(target)
        return self._by_target[target]


async def run_chain(
    steps: Sequence[Step],
    question: Question,
    deadline: Deadline,
    breakers: Breakers,
    check: Callable[[dict[str, Any]], None],
) -> ChainResult:
    """Tries the steps in order until one answers; the last always does.

    A step gets an equal share of what is left (or its `timeout_s`, if that is less), so what the
    first do not use, the later have. `check` raises SchemaViolation for an output that does not fit.
    """
    attempts: list[Attempt] = []
    reason = None
    for position, step in enumerate(steps[:-1]):
        share = deadline.left_s() / (len(steps) - 1 - position)
        budget = Deadline.after_ms(1000 * min(share, step.timeout_s or share), deadline.clock)
        outcome = await _try_step(step, question, budget, breakers.of(step.target), check, attempts)
        if isinstance(outcome, StepAnswer):
            return ChainResult(outcome, step.served_by, reason, attempts)
        reason = reason or outcome.code
    last = steps[-1]
    started = deadline.clock()
    answer = await last.ask(question, deadline.left_s())
    attempts.append(_attempt(last, "ok", deadline.clock() - started, None, None))
    return ChainResult(answer, last.served_by, reason, attempts)


def static_step(template: dict[str, Any]) -> Step:
    """The end of every chain: the non-AI version, filled in from the input."""

    async def ask(question: Question, _: float) -> StepAnswer:
        return StepAnswer(output=fill_static(template, question.input))

    return Step(ServedBy(STATIC, STATIC), STATIC, ask)


def fill_static(template: Any, given: dict[str, Any]) -> Any:
    """Replaces every `{"$input": field, "take": …}` of a static output."""
    if isinstance(template, list):
        return [fill_static(item, given) for item in template]
    if not isinstance(template, dict):
        return template
    if "$input" not in template:
        return {key: fill_static(value, given) for key, value in template.items()}
    value = given.get(template["$input"], "")
    return first_sentence(str(value)) if template.get("take") == "first_sentence" else value


def first_sentence(text: str) -> str:
    """The text up to its first full stop, at most 280 characters."""
    sentence = _SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    if len(sentence) <= _FIRST_SENTENCE_MAX:
        return sentence
    return sentence[: _FIRST_SENTENCE_MAX - 1].rsplit(" ", 1)[0] + "…"


async def _try_step(
    step: Step,
    question: Question,
    budget: Deadline,
    breaker: Breaker,
    check: Callable[[dict[str, Any]], None],
    attempts: list[Attempt],
) -> StepAnswer | StepError:
    error: StepError | None = None
    for tries_left in range(step.retries, -1, -1):
        telling = budget.left_s() >= TELLING_SHARE * step.granted_s
        admission = breaker.admit(may_probe=telling)
        if admission is None:
            if error is None:
                error = BreakerOpen(f"{step.target} failed too often lately")
                attempts.append(_attempt(step, error.code, 0.0, error, None))
            return error
        started = budget.clock()
        answer = None
        left_s = budget.left_s()
        try:
            answer = await at_most(left_s, step.ask(question, left_s))
            check(answer.output)
        except StepError as failure:
            error = failure
        except TookTooLong:
            error = StepTimeout(f"{step.target} did not answer within {left_s * 1000:.0f} ms")
        except BaseException:
            breaker.forget(admission)
            raise
        else:
            breaker.record(admission, ok=True)
            attempts.append(_attempt(step, "ok", budget.clock() - started, None, answer))
            return answer
        if isinstance(error, StepTimeout) and not telling:
            breaker.forget(admission)
        else:
            breaker.record(admission, ok=not error.counts, retry_after_s=error.retry_after_s)
        attempts.append(_attempt(step, error.code, budget.clock() - started, error, answer))
        pause = _pause_s(step.retries - tries_left, error.retry_after_s)
        if not error.retryable or not tries_left or pause >= budget.left_s():
            return error
        await asyncio.sleep(pause)
    raise AssertionError("the loop returns on its last turn")


def _pause_s(tries_made: int, retry_after_s: float | None) -> float:
    """What the target asked for, else full jitter over 50, 100, 200 … ms."""
    backoff = random.uniform(0, 0.05 * 2**tries_made)
    return backoff if retry_after_s is None else retry_after_s + backoff


def _attempt(
    step: Step, outcome: str, seconds: float, error: StepError | None, answer: StepAnswer | None
) -> Attempt:
    usage: Usage | None = answer.usage if answer else getattr(error, "usage", None)
    return Attempt(
        served_by=step.served_by,
        target=step.target,
        outcome=outcome,
        latency_ms=seconds * 1000,
        detail=error.detail if error else None,
        usage=usage,
    )
