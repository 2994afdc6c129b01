"""The fallback chain: ordered steps under one deadline, with retries; the one engine of every pattern."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Generic, Literal, Protocol, TypeVar

import orjson

from trivium.domain.breaker import Admission, Breaker, Breakers, Clock
from trivium.domain.inference import Attempt, Question, ServedBy, StepAnswer, Usage
from trivium.errors import BreakerOpen, ContextOverflow, SchemaViolation, StepError, StepTimeout
from trivium.tracing import NO_SPAN, Span, current
from trivium.waiting import TookTooLong, at_most

STATIC: Literal["static"] = "static"
LEFT = "left"
"""The outcome of an attempt whose caller went away."""
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_FIRST_SENTENCE_MAX = 280
# A caller may set a deadline that nobody can meet: a timeout tells of the target only if it had nearly
# the time that the manifest grants.
TELLING_SHARE = 0.9
PATIENCE_S = 1.0
"""A target that asks for more is passed over, if another is left."""


class Answered(Protocol):
    """What a step gives back, as far as the chain looks at it."""

    @property
    def usage(self) -> Usage | None:
        """Tokens that it was billed for."""
        ...


Q = TypeVar("Q")
A = TypeVar("A", bound=Answered)


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
class Step(Generic[Q, A]):
    """One target of one variant. `ask` gets the question and its seconds, and must raise StepErrors."""

    served_by: ServedBy
    target: str
    ask: Callable[[Q, float], Awaitable[A]]
    retries: int = 0
    timeout_s: float | None = None
    granted_s: float = 0.0
    """Seconds that the manifest's own deadline leaves this step."""
    repair: Callable[[Q, SchemaViolation, float], Awaitable[A]] | None = None
    """Asks once more, told what was wrong with the answer."""
    gate: Callable[[float], AbstractAsyncContextManager[Any]] | None = None
    """Held during a call; may wait so many seconds, and raises TargetBusy."""
    context_tokens: int | None = None
    cascades_on: frozenset[str] = frozenset()
    """Codes on which the next step is asked by design, so that its answer is not degraded."""
    lot: Callable[[], Sequence[int]] | None = None
    """Draws the order of the steps that share it and stand together; None leaves them as they stand."""


Admit = Callable[[Step[Any, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Conduct:
    """What one request may do besides its steps' own limits."""

    max_attempts: int = 1_000
    stops: Callable[[StepError], bool] = lambda error: False
    """Errors that are the caller's: no other target is asked."""
    admit: Admit | None = None
    """Called before every try; a StepError that it raises passes the step over."""


CHAIN = Conduct()


@dataclass(slots=True)
class Try:
    """One call of a step, from its leave to its end; whoever has it ends it, by one of the three."""

    step: Step[Any, Any]
    breaker: Breaker
    admission: Admission
    telling: bool
    attempts: list[Attempt]
    clock: Clock
    started: float
    span: Span = NO_SPAN

    def ok(self, usage: Usage | None) -> None:
        """The target answered."""
        self.breaker.record(self.admission, ok=True)
        self._note("ok", None, usage)

    def failed(self, error: StepError, usage: Usage | None = None) -> None:
        """It did not, or not as it should."""
        if isinstance(error, StepTimeout) and not self.telling:
            self.breaker.doubt(self.admission)
        else:
            self.breaker.record(self.admission, ok=not error.counts, retry_after_s=error.retry_after_s)
        self._note(error.code, error, usage or error.usage)

    def left(self, outcome: str = LEFT) -> Attempt:
        """Nobody waits for it any more."""
        self.breaker.forget(self.admission)
        return self._note(outcome, None, None)

    def _note(self, outcome: str, error: StepError | None, usage: Usage | None) -> Attempt:
        noted = attempt_of(self.step, outcome, self.clock() - self.started, error, usage)
        self.attempts.append(noted)
        if self.span.recording:
            self.span.set({"trivium.outcome": outcome})
            if outcome != "ok":
                self.span.fail(outcome)
            self.span.end()
        return noted


@dataclass(slots=True)
class Walk(Generic[Q, A]):
    """One request's way through its steps: what it may still do, and what it did."""

    question: Q
    deadline: Deadline
    breakers: Breakers
    accept: Callable[[A], None]
    """Raises SchemaViolation for an answer that does not fit."""
    conduct: Conduct = CHAIN
    attempts: list[Attempt] = field(default_factory=list)
    span: Span = field(default_factory=current)
    """Whose the attempts' spans are."""

    async def begin(self, step: Step[Q, A], budget: Deadline) -> Try:
        """Leave to ask a step now.

        Raises:
            StepError: there is none, and the reason is noted as an attempt.
        """
        telling = budget.left_s() >= TELLING_SHARE * step.granted_s
        breaker = self.breakers.of(step.target)
        admission = breaker.admit(may_probe=telling)
        if admission is None:
            raise self.passed_over(step, BreakerOpen(f"{step.target} failed too often lately"))
        if self.conduct.admit:
            try:
                await self.conduct.admit(step)
            except StepError as error:
                breaker.forget(admission)
                raise self.passed_over(step, error) from None
            except BaseException:
                breaker.forget(admission)
                raise
        clock = budget.clock
        span = self.span.attempt(step.target)
        if span.recording:
            span.set(_told_of(step))
        return Try(step, breaker, admission, telling, self.attempts, clock, clock(), span)

    def passed_over(self, step: Step[Q, A], error: StepError) -> StepError:
        """Notes that a step was not asked, and why."""
        self.attempts.append(attempt_of(step, error.code, 0.0, error, None))
        if self.span.recording:
            self.span.event("trivium.passed_over", {**_told_of(step), "trivium.outcome": error.code})
        return error

    def pause_after(
        self, step: Step[Q, A], tries: int, error: StepError, left_s: float, *, last: bool
    ) -> float | None:
        """Seconds until the same step may be asked again; None if it may not.

        Args:
            step: that failed.
            tries: how often it was asked.
            error: why it failed.
            left_s: of its budget.
            last: no other step is left, so that a long wait is better than none.
        """
        if not error.retryable or tries > step.retries or len(self.attempts) >= self.conduct.max_attempts:
            return None
        # Full jitter over 50, 100, 200 … ms: "Exponential Backoff And Jitter", AWS, 2015.
        pause = random.uniform(0, 0.05 * 2 ** (tries - 1))
        if error.retry_after_s is not None:
            if error.retry_after_s > PATIENCE_S and not last:
                return None
            pause += error.retry_after_s
        return pause if pause < left_s else None

    def budget_of(self, step: Step[Q, A], steps_left: int) -> Deadline:
        """An equal share of what is left, or the step's own `timeout_s` if that is less."""
        share = self.deadline.left_s() / steps_left
        return Deadline.after_ms(1000 * min(share, step.timeout_s or share), self.deadline.clock)

    def after(self, steps: Sequence[Step[Q, A]], position: int, error: StepError) -> int | None:
        """The position of the step that is to be asked after one has failed; None if there is none."""
        if len(self.attempts) >= self.conduct.max_attempts or not self.deadline.left_s():
            return None
        following = range(position + 1, len(steps))
        if isinstance(error, ContextOverflow):
            known = steps[position].context_tokens or 0
            larger = [n for n in following if (steps[n].context_tokens or 0) > known]
            if larger:
                return larger[0]
        return None if self.conduct.stops(error) or not following else position + 1

    async def ask(self, step: Step[Q, A], budget: Deadline, *, last: bool) -> A | StepError:
        """Asks a step as often as it may be asked; its answer, or why there is none."""
        error: StepError | None = None
        ask, tries, repaired = step.ask, 0, False
        while True:
            try:
                one = await self.begin(step, budget)
            except StepError as refused:
                return error or refused
            tries += 1
            outcome = await self._once(one, ask, budget.left_s())
            if not isinstance(outcome, StepError):
                return outcome
            error = outcome
            if not repaired and (mend := self._mending(one, error, budget.left_s())):
                ask, repaired = mend, True
                continue
            pause = self.pause_after(step, tries, error, budget.left_s(), last=last)
            if pause is None:
                return error
            await asyncio.sleep(pause)

    def _mending(
        self, one: Try, error: StepError, left_s: float
    ) -> Callable[[Q, float], Awaitable[A]] | None:
        """What asks to put an answer right, if it is likely to end in time: it takes as long as the first."""
        repair = one.step.repair
        if repair is None or not isinstance(error, SchemaViolation) or error.answered is None:
            return None
        return partial(_repaired, repair, error) if one.clock() - one.started <= left_s else None

    async def _once(self, one: Try, ask: Callable[[Q, float], Awaitable[A]], left_s: float) -> A | StepError:
        answer: A | None = None
        try:
            with one.span.here():
                async with one.step.gate(left_s) if one.step.gate else nullcontext():
                    answer = await at_most(left_s, ask(self.question, left_s))
            self.accept(answer)
        except StepError as error:
            failure = error
        except TookTooLong:
            failure = StepTimeout(f"{one.step.target} did not answer within {left_s * 1000:.0f} ms")
        except BaseException:
            one.left()
            raise
        else:
            one.ok(answer.usage)
            return answer
        one.failed(failure, answer.usage if answer else None)
        return failure


async def _repaired(
    repair: Callable[[Q, SchemaViolation, float], Awaitable[A]],
    violation: SchemaViolation,
    question: Q,
    seconds: float,
) -> A:
    return await repair(question, violation, seconds)


@dataclass(slots=True)
class ChainResult:
    """The answer, who gave it, why the first step did not, and every try."""

    answer: StepAnswer
    served_by: ServedBy
    fallback_reason: str | None
    attempts: list[Attempt]
    handed_on_from: str | None = None


async def run_chain(
    steps: Sequence[Step[Question, StepAnswer]],
    question: Question,
    deadline: Deadline,
    breakers: Breakers,
    check: Callable[[dict[str, Any]], None],
    conduct: Conduct = CHAIN,
    attempts: list[Attempt] | None = None,
) -> ChainResult:
    """Tries the steps in order until one answers; the last always does.

    A step gets an equal share of what is left (or its `timeout_s`, if that is less), so what the
    first do not use, the later have. `check` raises SchemaViolation for an output that does not fit.
    `attempts` is filled on the way, for whoever must know them though the chain does not end.
    """

    def accept(answer: StepAnswer) -> None:
        try:
            check(answer.output)
        except SchemaViolation as error:
            error.answered = orjson.dumps(answer.output).decode()
            raise

    walk = Walk(question, deadline, breakers, accept, conduct, [] if attempts is None else attempts)
    reason = handed_on_from = None
    position: int | None = 0 if len(steps) > 1 else None
    while position is not None:
        step, left = steps[position], len(steps) - 1 - position
        outcome = await walk.ask(step, walk.budget_of(step, left), last=left == 1)
        if isinstance(outcome, StepAnswer):
            return ChainResult(outcome, step.served_by, reason, walk.attempts, handed_on_from)
        if outcome.code in step.cascades_on:
            handed_on_from = handed_on_from or step.served_by.variant
        else:
            reason = reason or outcome.code
        position = walk.after(steps[:-1], position, outcome)
    last = steps[-1]
    started = deadline.clock()
    answer = await last.ask(question, deadline.left_s())
    walk.attempts.append(attempt_of(last, "ok", deadline.clock() - started, None, None))
    # What was handed on by design and then not answered is degraded after all.
    reason = reason or next((a.outcome for a in walk.attempts if a.outcome != "ok"), None)
    return ChainResult(answer, last.served_by, reason, walk.attempts)


def drawn(steps: Sequence[Step[Q, A]]) -> list[Step[Q, A]]:
    """The steps in the order in which one request tries them."""
    order: list[Step[Q, A]] = []
    for lot, group in groupby(steps, key=lambda step: step.lot):
        some = list(group)
        order += [some[place] for place in lot()] if lot else some
    return order


def static_step(template: dict[str, Any]) -> Step[Question, StepAnswer]:
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


def attempt_of(
    step: Step[Any, Any], outcome: str, seconds: float, error: StepError | None, usage: Usage | None
) -> Attempt:
    """The ledger's entry for one try of a step."""
    return Attempt(
        served_by=step.served_by,
        target=step.target,
        outcome=outcome,
        latency_ms=seconds * 1000,
        detail=error.detail if error else None,
        usage=usage,
    )


def _told_of(step: Step[Any, Any]) -> dict[str, str | None]:
    """What a span says of a step."""
    by = step.served_by
    return {
        "trivium.step": by.step,
        "trivium.pattern": by.pattern,
        "trivium.variant": by.variant,
        "trivium.version": by.version,
        "trivium.target": step.target,
    }
