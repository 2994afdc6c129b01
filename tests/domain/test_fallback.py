import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from trivium.domain.breaker import Breaker, Breakers, breaker_of
from trivium.domain.fallback import (
    ChainResult,
    Conduct,
    Deadline,
    Step,
    fill_static,
    first_sentence,
    run_chain,
    static_step,
)
from trivium.domain.inference import Question, ServedBy, StepAnswer, Usage
from trivium.errors import (
    BudgetExhausted,
    ConnectionFailed,
    ContextOverflow,
    LowConfidence,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestRefused,
    ResultMissing,
    ResultStale,
    SchemaViolation,
    StepError,
    StepTimeout,
)

Ask = Callable[[Question, float], Awaitable[StepAnswer]]
QUESTION = Question({"text": "Where is my card? I need it."})
STATIC = static_step({"label": "general-queue"})
SLACK_S = 0.4
"""What two busy cores may add to a moment."""


@dataclass
class HandClock:
    """A clock that stands still until it is moved."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Script:
    """A target that plays its answers and failures in order, the last of them for ever."""

    plays: list[StepAnswer | Exception]
    asked: list[float] = field(default_factory=list)

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        play = self.plays[min(len(self.asked), len(self.plays) - 1)]
        self.asked.append(seconds)
        if isinstance(play, Exception):
            raise play
        return play


def _script(*plays: StepAnswer | Exception) -> Script:
    return Script(list(plays))


def _answer(label: str = "card_arrival", usage: Usage | None = None) -> StepAnswer:
    return StepAnswer({"label": label}, usage=usage)


async def _silent(question: Question, seconds: float) -> StepAnswer:
    await asyncio.sleep(30)
    raise AssertionError("nobody waits that long")


def _step(
    ask: Ask, name: str = "first", *, retries: int = 0, timeout_s: float | None = None
) -> Step[Question, StepAnswer]:
    return Step(ServedBy(name, "api", name, "v1", name), name, ask, retries, timeout_s)


def _labels_only(output: dict[str, Any]) -> None:
    if list(output) != ["label"]:
        raise SchemaViolation(f"label is missing from {output}")


async def _run(
    *steps: Step[Question, StepAnswer], ms: float = 2_000, breakers: Breakers | None = None
) -> ChainResult:
    return await run_chain(
        [*steps, STATIC], QUESTION, Deadline.after_ms(ms), breakers or Breakers(), _labels_only
    )


def _outcomes(result: ChainResult) -> list[tuple[str, str]]:
    return [(attempt.target, attempt.outcome) for attempt in result.attempts]


# The chain


async def test_the_first_step_answers_and_the_rest_are_not_asked() -> None:
    second = _script(_answer("second"))
    result = await _run(_step(_script(_answer())), _step(second, "second"))
    assert result.answer == _answer()
    assert result.served_by == ServedBy("first", "api", "first", "v1", "first")
    assert result.fallback_reason is None
    assert _outcomes(result) == [("first", "ok")]
    assert second.asked == []


@pytest.mark.parametrize(
    "error",
    [
        StepTimeout("x"),
        RateLimited("x"),
        Overloaded("x"),
        ConnectionFailed("x"),
        ProviderError("x"),
        RequestRefused("x"),
        SchemaViolation("x"),
        LowConfidence("x"),
        BudgetExhausted("x"),
        ResultMissing("x"),
        ResultStale("x"),
    ],
    ids=lambda error: error.code,
)
async def test_a_named_error_falls_through_to_the_next_step(error: StepError) -> None:
    result = await _run(_step(_script(error)), _step(_script(_answer("second")), "second"))
    assert result.answer.output == {"label": "second"}
    assert result.served_by.step == "second"
    assert result.fallback_reason == error.code
    assert _outcomes(result) == [("first", error.code), ("second", "ok")]


async def test_the_static_step_ends_a_chain_whose_every_step_failed() -> None:
    result = await _run(
        _step(_script(LowConfidence("unsure"))), _step(_script(RequestRefused("no")), "second")
    )
    assert result.answer.output == {"label": "general-queue"}
    assert result.served_by == ServedBy("static", "static")
    assert result.fallback_reason == "low_confidence"
    assert _outcomes(result) == [("first", "low_confidence"), ("second", "refused"), ("static", "ok")]


async def test_a_chain_of_the_static_step_alone_is_no_fallback() -> None:
    result = await _run()
    assert result.served_by.step == "static"
    assert result.fallback_reason is None
    assert _outcomes(result) == [("static", "ok")]


async def test_a_programming_error_propagates_and_nothing_is_asked_after_it() -> None:
    second = _script(_answer())
    with pytest.raises(ZeroDivisionError):
        await _run(_step(_script(ZeroDivisionError()), retries=3), _step(second, "second"))
    assert second.asked == []


async def test_a_programming_error_in_the_check_propagates() -> None:
    def check(output: dict[str, Any]) -> None:
        raise KeyError("no such schema")

    with pytest.raises(KeyError):
        await run_chain(
            [_step(_script(_answer())), STATIC], QUESTION, Deadline.after_ms(500), Breakers(), check
        )


# Attempts


async def test_every_try_is_recorded_with_its_usage_its_detail_and_its_time() -> None:
    billed = ProviderError("cut off")
    billed.usage = Usage(40, 3)

    async def slow(question: Question, seconds: float) -> StepAnswer:
        await asyncio.sleep(0.02)
        return _answer("second", Usage(50, 5, 10))

    result = await _run(_step(_script(billed), retries=1), _step(slow, "second"))
    assert [(a.target, a.outcome, a.usage, a.detail) for a in result.attempts] == [
        ("first", "provider_error", Usage(40, 3), "cut off"),
        ("first", "provider_error", Usage(40, 3), "cut off"),
        ("second", "ok", Usage(50, 5, 10), None),
    ]
    assert [a.served_by.step for a in result.attempts] == ["first", "first", "second"]
    assert 15 <= result.attempts[-1].latency_ms <= 20 + 1_000 * SLACK_S


async def test_an_answer_that_does_not_fit_falls_through_and_its_usage_is_kept() -> None:
    odd = StepAnswer({"queue": "x"}, usage=Usage(70, 7))
    step = _script(odd)
    result = await _run(_step(step, retries=3))
    assert result.served_by.step == "static"
    assert result.fallback_reason == "schema_violation"
    assert len(step.asked) == 1
    assert (result.attempts[0].outcome, result.attempts[0].usage) == ("schema_violation", Usage(70, 7))
    assert "label is missing" in (result.attempts[0].detail or "")


async def test_the_static_steps_own_attempt_buys_no_tokens() -> None:
    static = (await _run(_step(_script(LowConfidence("unsure"))))).attempts[-1]
    assert (static.target, static.outcome, static.usage, static.detail) == ("static", "ok", None, None)


# The deadline


async def test_silent_steps_share_the_deadline_and_never_add_up_past_it() -> None:
    started = time.monotonic()
    result = await _run(*(_step(_silent, name) for name in ("a", "b", "c")), ms=240)
    assert 0.22 <= time.monotonic() - started <= 0.24 + SLACK_S
    assert _outcomes(result) == [("a", "timeout"), ("b", "timeout"), ("c", "timeout"), ("static", "ok")]
    assert result.attempts[0].latency_ms >= 70


async def test_what_the_first_step_does_not_use_the_next_may() -> None:
    first, second = _script(LowConfidence("unsure")), _script(_answer())
    await _run(_step(first), _step(second, "second"), ms=3_000)
    assert first.asked[0] == pytest.approx(1.5, abs=SLACK_S)
    assert second.asked[0] == pytest.approx(3.0, abs=SLACK_S)


async def test_a_steps_own_timeout_is_a_cap_and_never_an_extension() -> None:
    short, long = _script(LowConfidence("unsure")), _script(_answer())
    await _run(_step(short, timeout_s=0.2), _step(long, "long", timeout_s=60), ms=1_000)
    assert 0 < short.asked[0] <= 0.2
    assert 0 < long.asked[0] <= 1.0


async def test_the_deadline_holds_though_a_step_swallows_its_cancellation() -> None:
    release = asyncio.Event()

    async def stubborn(question: Question, seconds: float) -> StepAnswer:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return _answer("too late")

    started = time.monotonic()
    result = await _run(_step(stubborn), ms=80)
    assert time.monotonic() - started <= 0.08 + SLACK_S
    release.set()
    await asyncio.sleep(0)
    assert result.answer.output == {"label": "general-queue"}
    assert _outcomes(result) == [("first", "timeout"), ("static", "ok")]


async def test_the_deadline_holds_though_a_steps_clean_up_is_slow_and_fails() -> None:
    cleaned = asyncio.Event()

    async def untidy(question: Question, seconds: float) -> StepAnswer:
        try:
            await asyncio.sleep(30)
        finally:
            await cleaned.wait()
            raise OSError("the socket was gone")

    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    try:
        started = time.monotonic()
        result = await _run(_step(untidy), ms=80)
        assert time.monotonic() - started <= 0.08 + SLACK_S
        assert result.fallback_reason == "timeout"
        cleaned.set()
        await asyncio.sleep(0.01)
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert unheard == []


async def test_a_deadline_that_has_passed_is_answered_at_once() -> None:
    started = time.monotonic()
    result = await _run(_step(_silent), _step(_silent, "second"), ms=-50)
    assert time.monotonic() - started <= SLACK_S
    assert result.answer.output == {"label": "general-queue"}


async def test_a_deadline_never_has_negative_time_left() -> None:
    clock = HandClock()
    deadline = Deadline.after_ms(1_500, clock)
    assert deadline.left_s() == pytest.approx(1.5)
    clock.now += 1
    assert deadline.left_s() == pytest.approx(0.5)
    clock.now += 1
    assert deadline.left_s() == 0.0


# Retries


@pytest.mark.parametrize(
    "error",
    [RateLimited("x"), Overloaded("x"), ConnectionFailed("x"), ProviderError("x")],
    ids=lambda error: error.code,
)
async def test_a_passing_error_is_tried_again_on_the_same_target(error: StepError) -> None:
    step = _script(error, _answer())
    result = await _run(_step(step, retries=2))
    assert result.served_by.step == "first"
    assert result.fallback_reason is None
    assert _outcomes(result) == [("first", error.code), ("first", "ok")]
    assert len(step.asked) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_retries_are_bounded_in_number(retries: int) -> None:
    step = _script(Overloaded("busy"))
    result = await _run(_step(step, retries=retries))
    assert len(step.asked) == retries + 1
    assert [outcome for _, outcome in _outcomes(result)] == ["overloaded"] * (retries + 1) + ["ok"]


@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("too long"),
        SchemaViolation("x"),
        LowConfidence("x"),
        BudgetExhausted("x"),
        ResultMissing("x"),
        ResultStale("x"),
        StepTimeout("x"),
    ],
    ids=lambda error: error.code,
)
async def test_what_a_repeat_would_not_change_is_not_repeated(error: StepError) -> None:
    step = _script(error)
    await _run(_step(step, retries=3))
    assert len(step.asked) == 1


async def test_a_silent_target_is_not_asked_again() -> None:
    asked: list[float] = []

    async def silent(question: Question, seconds: float) -> StepAnswer:
        asked.append(seconds)
        return await _silent(question, seconds)

    result = await _run(_step(silent, retries=3, timeout_s=0.03))
    assert len(asked) == 1
    assert _outcomes(result) == [("first", "timeout"), ("static", "ok")]


async def test_retry_after_is_waited_for() -> None:
    step = _script(RateLimited("slow down", retry_after_s=0.1), _answer())
    started = time.monotonic()
    result = await _run(_step(step, retries=1))
    assert 0.1 <= time.monotonic() - started <= 0.1 + 0.05 + SLACK_S
    assert result.served_by.step == "first"


async def test_retry_after_is_not_waited_for_past_the_steps_budget() -> None:
    step = _script(RateLimited("slow down", retry_after_s=2.5), _answer())
    started = time.monotonic()
    result = await _run(_step(step, retries=3), _step(_script(_answer("second")), "second"), ms=4_000)
    assert time.monotonic() - started <= SLACK_S
    assert _outcomes(result) == [("first", "rate_limited"), ("second", "ok")]


async def test_retries_share_the_steps_budget() -> None:
    asked: list[float] = []

    async def slow_failure(question: Question, seconds: float) -> StepAnswer:
        asked.append(seconds)
        await asyncio.sleep(0.06)
        raise Overloaded("busy")

    started = time.monotonic()
    result = await _run(_step(slow_failure, retries=3, timeout_s=0.1))
    assert time.monotonic() - started <= 0.1 + SLACK_S
    assert asked == sorted(asked, reverse=True)
    assert len(asked) <= 2
    assert result.served_by.step == "static"


async def test_pauses_are_jittered_so_callers_do_not_come_back_together() -> None:
    asked_again: list[float] = []

    def caller() -> Ask:
        failed = False

        async def ask(question: Question, seconds: float) -> StepAnswer:
            nonlocal failed
            if failed:
                asked_again.append(time.monotonic())
                return _answer()
            failed = True
            raise Overloaded("busy")

        return ask

    breakers = Breakers(lambda target: Breaker(target, min_samples=1_000))
    await asyncio.gather(*(_run(_step(caller(), retries=1), breakers=breakers) for _ in range(12)))
    assert len(asked_again) == 12
    assert max(asked_again) - min(asked_again) > 0.005


# Cancellation


async def test_cancelling_the_caller_cancels_the_step() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def watched(question: Question, seconds: float) -> StepAnswer:
        asked.set()
        try:
            return await _silent(question, seconds)
        finally:
            ended.set()

    second = _script(_answer())
    chain = asyncio.create_task(_run(_step(watched), _step(second, "second")))
    await asked.wait()
    chain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chain
    await asyncio.wait_for(ended.wait(), 1)
    assert second.asked == []


async def test_a_caller_that_hangs_up_says_nothing_of_the_target() -> None:
    breakers = Breakers(lambda target: Breaker(target, min_samples=1))
    asked = asyncio.Event()

    async def watched(question: Question, seconds: float) -> StepAnswer:
        asked.set()
        return await _silent(question, seconds)

    chain = asyncio.create_task(_run(_step(watched), breakers=breakers))
    await asked.wait()
    chain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chain
    assert breakers.of("first").state == 0


async def test_a_step_that_fails_as_it_is_cancelled_with_its_caller_is_heard_out() -> None:
    asked = asyncio.Event()

    async def untidy(question: Question, seconds: float) -> StepAnswer:
        asked.set()
        try:
            return await _silent(question, seconds)
        finally:
            raise OSError("the socket was gone")

    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    try:
        chain = asyncio.create_task(_run(_step(untidy)))
        await asked.wait()
        chain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chain
        await asyncio.sleep(0.01)
        del chain
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert unheard == []


# The breaker by itself


def _call(breaker: Breaker, *, ok: bool, retry_after_s: float | None = None) -> None:
    """One call that is let through and ends at once."""
    admission = breaker.admit()
    assert admission
    breaker.record(admission, ok=ok, retry_after_s=retry_after_s)


def _opened(clock: HandClock, **settings: Any) -> Breaker:
    breaker = Breaker("target", clock, **settings)
    for _ in range(breaker.min_samples):
        _call(breaker, ok=False)
    assert breaker.state == 2
    return breaker


def test_a_breaker_opens_only_after_its_minimum_of_samples() -> None:
    breaker = Breaker("target", HandClock(), min_samples=5)
    for _ in range(4):
        _call(breaker, ok=False)
        assert breaker.state == 0
    _call(breaker, ok=False)
    assert breaker.state == 2
    assert not breaker.admit()


def test_a_breaker_opens_at_its_ratio_of_failures_and_not_below() -> None:
    breaker = Breaker("target", HandClock(), min_samples=4, ratio=0.5)
    for ok in (True, True, True, False, False):
        _call(breaker, ok=ok)
        assert breaker.state == 0
    _call(breaker, ok=False)
    assert breaker.state == 2


def test_failures_older_than_the_window_are_forgotten() -> None:
    clock = HandClock()
    breaker = Breaker("target", clock, min_samples=3, window_s=30)
    _call(breaker, ok=False)
    _call(breaker, ok=False)
    clock.now += 31
    _call(breaker, ok=False)
    assert breaker.state == 0


def test_an_open_breaker_admits_one_probe_at_a_time_once_it_has_cooled() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0)
    clock.now += 1.9
    assert not breaker.admit()
    clock.now += 0.2
    assert breaker.state == 1
    assert [bool(breaker.admit()) for _ in range(3)] == [True, False, False]


def test_a_probes_success_closes_and_its_past_is_forgotten() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0, min_samples=3)
    clock.now += 2.1
    _call(breaker, ok=True)
    assert breaker.state == 0
    _call(breaker, ok=False)
    assert breaker.state == 0
    assert all(breaker.admit() for _ in range(3))


def test_a_probes_failure_opens_for_twice_as_long_up_to_a_limit() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0, max_cool_s=10.0)
    for cool_s in (2.0, 4.0, 8.0, 10.0, 10.0):
        clock.now += cool_s - 0.1
        assert not breaker.admit()
        clock.now += 0.2
        _call(breaker, ok=False)


def test_a_breaker_that_closed_starts_again_from_its_first_cooling() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0, min_samples=2)
    clock.now += 2.1
    _call(breaker, ok=False)
    clock.now += 4.1
    _call(breaker, ok=True)
    _call(breaker, ok=False)
    _call(breaker, ok=False)
    clock.now += 2.1
    assert breaker.admit()


def test_a_breaker_stays_open_for_what_the_target_asked_but_not_for_ever() -> None:
    clock = HandClock()
    breaker = Breaker("target", clock, min_samples=1, cool_s=2.0, max_cool_s=30.0)
    _call(breaker, ok=False, retry_after_s=7.0)
    clock.now += 6.9
    assert not breaker.admit()
    clock.now += 0.2
    _call(breaker, ok=False, retry_after_s=86_400.0)
    clock.now += 59.9
    assert not breaker.admit()
    clock.now += 0.2
    assert breaker.admit()


def test_a_shorter_retry_after_does_not_shorten_the_cooling() -> None:
    clock = HandClock()
    breaker = Breaker("target", clock, min_samples=1, cool_s=2.0)
    _call(breaker, ok=False, retry_after_s=0.1)
    clock.now += 1.9
    assert not breaker.admit()


def test_a_probe_that_never_ends_does_not_lock_the_target_out_for_ever() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0, max_cool_s=30.0)
    clock.now += 2.1
    assert breaker.admit()
    clock.now += 30.1
    assert breaker.admit()


def test_a_probe_that_is_given_back_can_be_made_by_the_next() -> None:
    clock = HandClock()
    breaker = _opened(clock, cool_s=2.0)
    clock.now += 2.1
    probe = breaker.admit()
    assert probe
    breaker.forget(probe)
    assert breaker.state == 1
    assert breaker.admit()


def test_every_change_of_state_is_told() -> None:
    clock = HandClock()
    told: list[tuple[str, int]] = []
    breaker = _opened(clock, cool_s=2.0, on_change=lambda target, state: told.append((target, state)))
    clock.now += 2.1
    _call(breaker, ok=False)
    clock.now += 4.1
    _call(breaker, ok=True)
    assert told == [("target", state) for state in (2, 1, 2, 1, 0)]


# The breaker within a chain


def _breakers(clock: HandClock, **settings: Any) -> Breakers:
    return Breakers(lambda target: Breaker(target, clock, **settings))


async def test_an_open_breaker_spares_its_target_and_the_attempt_says_so() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=2, cool_s=2.0)
    step = _script(Overloaded("busy"), Overloaded("busy"), _answer())
    for _ in range(2):
        await _run(_step(step), breakers=breakers)
    result = await _run(_step(step), breakers=breakers)
    assert len(step.asked) == 2
    assert result.fallback_reason == "breaker_open"
    assert _outcomes(result) == [("first", "breaker_open"), ("static", "ok")]
    assert result.attempts[0].usage is None
    clock.now += 2.1
    assert (await _run(_step(step), breakers=breakers)).served_by.step == "first"
    assert breakers.of("first").state == 0


async def test_a_breaker_is_per_target() -> None:
    breakers = _breakers(HandClock(), min_samples=1)
    await _run(_step(_script(Overloaded("busy")), "first"), breakers=breakers)
    result = await _run(_step(_script(_answer()), "second"), breakers=breakers)
    assert result.served_by.step == "second"
    assert (breakers.of("first").state, breakers.of("second").state) == (2, 0)


async def test_a_timeout_counts_against_its_target() -> None:
    breakers = _breakers(HandClock(), min_samples=1)
    await _run(_step(_silent), ms=120, breakers=breakers)
    assert breakers.of("first").state == 2


async def test_a_deadline_that_nobody_can_meet_tells_nothing_of_the_target() -> None:
    breakers = _breakers(HandClock(), min_samples=1)
    for _ in range(3):
        result = await _run(replace(_step(_silent), granted_s=1.0), ms=1, breakers=breakers)
        assert result.fallback_reason == "timeout"
    assert breakers.of("first").state == 0


async def test_a_caller_in_a_hurry_is_not_the_probe() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=1, cool_s=2.0)
    await _run(_step(_script(Overloaded("busy"))), breakers=breakers)
    clock.now += 2.1
    hurried = await _run(replace(_step(_script(_answer())), granted_s=1.0), ms=100, breakers=breakers)
    assert hurried.fallback_reason == "breaker_open"
    patient = await _run(replace(_step(_script(_answer())), granted_s=1.0), breakers=breakers)
    assert patient.served_by.step == "first"


async def test_a_timeout_that_the_step_itself_raises_is_a_programming_error() -> None:
    with pytest.raises(TimeoutError):
        await _run(_step(_script(TimeoutError("the system's own"))))


@pytest.mark.parametrize(
    "error",
    [RequestRefused("x"), SchemaViolation("x"), LowConfidence("x"), ResultMissing("x"), ResultStale("x")],
    ids=lambda error: error.code,
)
async def test_a_target_that_answers_something_unfit_is_not_down(error: StepError) -> None:
    breakers = _breakers(HandClock(), min_samples=1)
    await _run(_step(_script(error)), breakers=breakers)
    assert breakers.of("first").state == 0


async def test_a_chain_half_open_asks_one_probe_and_spares_the_others() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=1, cool_s=2.0)
    await _run(_step(_script(Overloaded("busy"))), breakers=breakers)
    clock.now += 2.1
    asked, answer = asyncio.Event(), asyncio.Event()

    async def probed(question: Question, seconds: float) -> StepAnswer:
        asked.set()
        await answer.wait()
        return _answer()

    probe = asyncio.create_task(_run(_step(probed), breakers=breakers))
    await asked.wait()
    spared = await _run(_step(probed), breakers=breakers)
    assert spared.fallback_reason == "breaker_open"
    answer.set()
    assert (await probe).served_by.step == "first"
    assert breakers.of("first").state == 0


@pytest.mark.parametrize("end", ["cancelled", "programming error"])
async def test_a_probe_whose_caller_is_gone_is_given_back(end: str) -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=1, cool_s=2.0)
    await _run(_step(_script(Overloaded("busy"))), breakers=breakers)
    clock.now += 2.1
    if end == "cancelled":
        probe = asyncio.create_task(_run(_step(_silent), breakers=breakers))
        await asyncio.sleep(0.01)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
    else:
        with pytest.raises(ZeroDivisionError):
            await _run(_step(_script(ZeroDivisionError())), breakers=breakers)
    assert (await _run(_step(_script(_answer())), breakers=breakers)).served_by.step == "first"


@dataclass
class Burst:
    """Calls that stand in one target at the same time and end when they are told."""

    gates: list["asyncio.Future[StepAnswer]"] = field(default_factory=list)

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        self.gates.append(asyncio.get_running_loop().create_future())
        return await self.gates[-1]

    async def until(self, asked: int) -> None:
        async with asyncio.timeout(1):
            while len(self.gates) < asked:
                await asyncio.sleep(0)


async def test_a_burst_of_failures_opens_the_breaker_once_and_not_for_longer_with_each() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=2, cool_s=2.0, max_cool_s=30.0)
    burst = Burst()
    chains = [asyncio.create_task(_run(_step(burst), breakers=breakers)) for _ in range(8)]
    await burst.until(8)
    for gate in burst.gates:
        gate.set_exception(Overloaded("busy"))
    await asyncio.gather(*chains)
    clock.now += 2.1
    assert (await _run(_step(_script(_answer())), breakers=breakers)).served_by.step == "first"


async def test_a_late_success_from_before_it_opened_does_not_close_the_breaker() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=2, cool_s=2.0)
    burst = Burst()
    late = asyncio.create_task(_run(_step(burst), breakers=breakers))
    await burst.until(1)
    for _ in range(2):
        await _run(_step(_script(Overloaded("busy"))), breakers=breakers)
    burst.gates[0].set_result(_answer())
    assert (await late).served_by.step == "first"
    assert breakers.of("first").state == 2


async def test_a_late_end_from_before_it_opened_does_not_let_a_second_probe_in() -> None:
    clock = HandClock()
    breakers = _breakers(clock, min_samples=2, cool_s=2.0)
    burst = Burst()
    late = asyncio.create_task(_run(_step(burst), breakers=breakers))
    await burst.until(1)
    for _ in range(2):
        await _run(_step(_script(Overloaded("busy"))), breakers=breakers)
    clock.now += 2.1
    probe = asyncio.create_task(_run(_step(burst), breakers=breakers))
    await burst.until(2)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    third = _script(_answer())
    spared = await _run(_step(third), breakers=breakers)
    burst.gates[1].set_result(_answer())
    await probe
    assert third.asked == []
    assert spared.fallback_reason == "breaker_open"


async def test_the_reason_is_the_targets_own_failure_though_it_opened_the_breaker() -> None:
    breakers = _breakers(HandClock(), min_samples=1)
    result = await _run(_step(_script(Overloaded("busy")), retries=1), breakers=breakers)
    assert result.fallback_reason == "overloaded"


# The static step


def test_a_static_output_is_filled_in_from_the_input_at_any_depth() -> None:
    template = {
        "label": "general-queue",
        "count": 0,
        "text": {"$input": "text"},
        "all": {"$input": "text", "take": "all"},
        "nested": [{"first": {"$input": "text", "take": "first_sentence"}}, "as it is"],
    }
    text = "Where is it? I need it."
    assert fill_static(template, {"text": text}) == {
        "label": "general-queue",
        "count": 0,
        "text": text,
        "all": text,
        "nested": [{"first": "Where is it?"}, "as it is"],
    }


def test_a_value_that_is_taken_whole_keeps_its_type() -> None:
    assert fill_static({"n": {"$input": "n"}}, {"n": [1, 2]}) == {"n": [1, 2]}


def test_what_the_input_lacks_is_empty_and_the_static_step_still_answers() -> None:
    template = {"a": {"$input": "absent"}, "b": {"$input": "absent", "take": "first_sentence"}}
    assert fill_static(template, {}) == {"a": "", "b": ""}


def test_what_a_customer_writes_is_not_filled_in_again() -> None:
    assert fill_static({"a": {"$input": "text"}}, {"text": {"$input": "other"}, "other": "x"}) == {
        "a": {"$input": "other"}
    }


async def test_the_static_step_answers_from_the_question() -> None:
    answer = await static_step({"summary": {"$input": "text", "take": "first_sentence"}}).ask(QUESTION, 0.0)
    assert answer == StepAnswer({"summary": "Where is my card?"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("  Really?! Yes.", "Really?!"),
        ("Wait… what", "Wait…"),
        ("a line\nanother", "a line"),
        ("It cost 3.50 euros. Why?", "It cost 3.50 euros."),
        ("no end", "no end"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_first_sentence_ends_where_it_ends(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_a_sentence_of_280_characters_is_kept_and_a_longer_one_is_cut_at_a_word() -> None:
    assert first_sentence("a" * 280) == "a" * 280
    cut = first_sentence("word " * 100)
    assert cut == "word " * 54 + "word…"
    assert len(first_sentence("a" * 5_000)) == 280


def test_an_outage_of_a_minute_costs_a_handful_of_probes_and_ends_within_seconds() -> None:
    clock = HandClock()
    breaker = breaker_of("openai/m", lambda target, state: None)
    breaker.clock = clock
    asked = 0
    for _ in range(20):  # one every three seconds
        admission = breaker.admit()
        if admission:
            asked += 1
            breaker.record(admission, ok=False)
        clock.now += 3
    assert asked <= 10
    for _ in range(4):
        if admission := breaker.admit():
            breaker.record(admission, ok=True)
        clock.now += 3
    assert breaker.state == 0


def test_a_call_costs_the_same_however_many_came_before_it() -> None:
    clock = HandClock()
    breaker = Breaker("target", clock, window_s=30.0)
    for _ in range(20_000):
        _call(breaker, ok=True)
        clock.now += 0.01
    assert len(breaker._slots) <= 102
    assert breaker._calls == sum(slot[1] for slot in breaker._slots)
    failures = 0
    while breaker.state == 0:
        _call(breaker, ok=False)
        failures += 1
    assert 2_900 <= failures <= 3_100  # as many as the window has successes


async def test_a_hurried_probe_that_times_out_begins_the_cooling_again() -> None:
    clock = HandClock()
    breaker = Breaker("target", clock, min_samples=1, cool_s=2.0)
    _call(breaker, ok=False)
    clock.now += 2.1
    assert breaker.admit(may_probe=False) is None  # who has the time to tell goes first
    clock.now += 2.0
    admission = breaker.admit(may_probe=False)
    assert admission
    breaker.doubt(admission)
    assert breaker.admit() is None
    clock.now += 2.1
    assert breaker.admit()


async def test_a_context_overflow_goes_to_the_next_larger_context() -> None:
    overflow = ContextOverflow("too long")
    small, smaller = _script(overflow), _script(_answer("smaller"))
    large = _script(_answer("large"))
    steps = [
        replace(_step(small, "small"), context_tokens=8),
        replace(_step(smaller, "smaller"), context_tokens=4),
        replace(_step(large, "large"), context_tokens=16),
    ]
    made = await _run(*steps)
    assert made.answer.output == {"label": "large"}
    assert not smaller.asked


async def test_an_answer_that_does_not_fit_is_put_right_once_if_there_is_time() -> None:
    told: list[str | None] = []

    async def repair(question: Question, violation: SchemaViolation, seconds: float) -> StepAnswer:
        told.append(violation.answered)
        return _answer("right")

    def check(output: dict[str, Any]) -> None:
        if output["label"] != "right":
            raise SchemaViolation("not right")

    step = replace(_step(_script(_answer("wrong")), "model"), repair=repair)
    made = await run_chain([step, STATIC], QUESTION, Deadline.after_ms(1000), Breakers(), check)
    assert made.answer.output == {"label": "right"}
    assert made.fallback_reason is None
    assert told == ['{"label":"wrong"}']
    assert [a.outcome for a in made.attempts] == ["schema_violation", "ok"]

    async def never_right(question: Question, violation: SchemaViolation, seconds: float) -> StepAnswer:
        told.append(violation.answered)
        return _answer("wrong")

    hopeless = replace(step, repair=never_right)
    made = await run_chain([hopeless, STATIC], QUESTION, Deadline.after_ms(1000), Breakers(), check)
    assert made.fallback_reason == "schema_violation"
    assert len(told) == 2


async def test_an_abstention_that_is_handed_on_by_design_is_not_degraded() -> None:
    unsure = replace(_step(_script(LowConfidence("0.2")), "edge"), cascades_on=frozenset({"low_confidence"}))
    made = await _run(unsure, _step(_script(_answer("from the llm")), "llm"))
    assert (made.answer.output, made.fallback_reason) == ({"label": "from the llm"}, None)
    assert made.handed_on_from == "edge"
    failed = await _run(unsure, _step(_script(ConnectionFailed("gone")), "llm"))
    assert failed.fallback_reason == "connection"
    nobody = await _run(unsure)
    assert nobody.fallback_reason == "low_confidence"


async def test_a_budget_that_is_spent_passes_a_step_over_without_asking_it() -> None:
    async def admit(step: Step[Any, Any]) -> None:
        if step.target == "paid":
            raise BudgetExhausted("spent")

    paid, free = _script(_answer("paid")), _script(_answer("free"))
    steps = [_step(paid, "paid"), _step(free, "free"), STATIC]
    made = await run_chain(
        steps, QUESTION, Deadline.after_ms(1000), Breakers(), lambda _: None, Conduct(admit=admit)
    )
    assert (made.answer.output, made.fallback_reason) == ({"label": "free"}, "budget_exhausted")
    assert not paid.asked


async def test_attempts_are_bounded_in_all() -> None:
    scripts = [_script(ConnectionFailed("gone")) for _ in range(4)]
    steps = [_step(script, f"t{n}", retries=3) for n, script in enumerate(scripts)]
    conduct = Conduct(max_attempts=5)
    made = await run_chain(
        [*steps, STATIC], QUESTION, Deadline.after_ms(3000), Breakers(), lambda _: None, conduct
    )
    assert sum(len(script.asked) for script in scripts) == 5
    assert made.fallback_reason == "connection"
