"""Hedged requests: the slow target's twin, what it costs, and what bounds it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from trivium.domain.breaker import Breakers
from trivium.domain.fallback import Deadline, Step, Walk
from trivium.domain.hedge import LOST, MIN_SAMPLES, Hedging, ask_hedged
from trivium.domain.inference import Question, ServedBy, StepAnswer, Usage
from trivium.errors import ConnectionFailed, StepError

QUESTION = Question({})


@dataclass
class Target:
    """Answers after so many seconds, or fails."""

    seconds: float
    error: StepError | None = None
    asked: int = 0
    cancelled: int = 0
    usage: Usage = field(default_factory=lambda: Usage(10, 5))

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        self.asked += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return StepAnswer({"by": self.seconds}, usage=self.usage)


def _walk(*targets: Target) -> tuple[Walk[Question, StepAnswer], list[Step[Question, StepAnswer]]]:
    steps = [Step(ServedBy(f"t{n}", "api"), f"t{n}", target) for n, target in enumerate(targets)]
    return Walk(QUESTION, Deadline.after_ms(3000), Breakers(), lambda _: None), steps


def _hedging(*, share: float = 1.0, usual_s: float = 0.01) -> Hedging:
    hedging = Hedging(0.95, 0.02, share)
    for _ in range(MIN_SAMPLES):
        hedging.answered("t0", usual_s)
    return hedging


async def test_who_answers_first_wins_and_the_losers_cost_is_counted() -> None:
    slow, quick = Target(2.0), Target(0.01)
    walk, steps = _walk(slow, quick)
    answer, position = await ask_hedged(walk, steps, _hedging())
    assert (isinstance(answer, StepAnswer), position) == (True, 1)
    assert slow.cancelled == 1
    lost = next(a for a in walk.attempts if a.target == "t0")
    assert (lost.outcome, lost.usage) == (LOST, Usage(10, 5))


async def test_a_target_as_quick_as_usual_is_asked_alone() -> None:
    quick, twin = Target(0.0), Target(0.0)
    walk, steps = _walk(quick, twin)
    _, position = await ask_hedged(walk, steps, _hedging())
    assert (position, twin.asked) == (0, 0)


async def test_a_target_of_which_too_little_is_known_is_asked_alone() -> None:
    slow, twin = Target(0.1), Target(0.0)
    walk, steps = _walk(slow, twin)
    await ask_hedged(walk, steps, Hedging(0.95, 0.0, 1.0))
    assert twin.asked == 0


async def test_the_share_of_hedged_requests_is_bounded() -> None:
    hedging = _hedging(share=0.1, usual_s=0.001)
    twin = Target(0.0)
    for _ in range(40):
        walk, steps = _walk(Target(0.05), twin)
        hedging._latencies["t0"].extend([0.001] * MIN_SAMPLES * 10)
        await ask_hedged(walk, steps, hedging)
    assert 3 <= twin.asked <= 4


@pytest.mark.parametrize("first_fails", [True, False])
async def test_if_one_fails_the_other_is_waited_for(first_fails: bool) -> None:
    gone = ConnectionFailed("gone")
    first, second = Target(0.1, gone if first_fails else None), Target(0.05, None if first_fails else gone)
    walk, steps = _walk(first, second)
    answer, position = await ask_hedged(walk, steps, _hedging())
    assert isinstance(answer, StepAnswer)
    assert position == (1 if first_fails else 0)


async def test_if_both_fail_the_walk_goes_on_behind_them() -> None:
    gone = ConnectionFailed("gone")
    walk, steps = _walk(Target(0.1, gone), Target(0.05, gone), Target(0.0))
    error, position = await ask_hedged(walk, steps, _hedging())
    assert isinstance(error, ConnectionFailed)
    assert walk.after(steps, position, error) == 2


async def test_a_caller_that_leaves_ends_both() -> None:
    slow, slower = Target(5.0), Target(5.0)
    walk, steps = _walk(slow, slower)
    call = ask_hedged(walk, steps, _hedging())
    asking = asyncio.create_task(call)
    async with asyncio.timeout(2):
        while not slower.asked:
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.05)
    assert (slow.cancelled, slower.cancelled) == (1, 1)
