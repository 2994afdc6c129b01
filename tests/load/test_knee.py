"""The knee of a server whose capacity is known."""

import signal

import pytest

import trivium.load.knee
from load.conftest import Serve
from trivium.load import Arrivals, Goal, Monitor, Plan, Search, StageResult, find_knee, sweep

GOAL = Goal(p99_ms=150)
QUICK = Search(80, step_seconds=1, confirm_seconds=1.5, warm_up_seconds=0.2, growth=1.5, precision=0.15)
CONSTANT = Plan(Arrivals.CONSTANT)


async def test_the_knee_of_a_known_capacity_is_found(serve: Serve) -> None:
    server = serve("--service-ms", "10", "--queue-ms", "100")
    knee = await find_knee(server.target(deadline_ms=150), GOAL, QUICK, CONSTANT)
    assert knee.rate == pytest.approx(100, rel=0.2)
    assert knee.limited_by == "target"
    confirmed = knee.stages[-1]
    assert confirmed.label == "confirm" and confirmed.rate == pytest.approx(knee.rate, abs=0.01)
    assert not confirmed.misses(GOAL)


async def test_a_sweep_measures_around_the_knee(serve: Serve) -> None:
    search = Search(40, highest_rate=40, step_seconds=0.2, confirm_seconds=0.25, warm_up_seconds=0)
    ended: list[StageResult] = []
    knee, measured = await sweep(
        serve().target(deadline_ms=1000), Goal(p99_ms=1000), search, CONSTANT, Monitor(on_stage=ended.append)
    )
    assert knee.rate == 40 and knee.limited_by == "highest_rate"
    assert [(stage.label, stage.rate) for stage in measured] == [
        ("50%", 20),
        ("100%", 40),
        ("120%", 48),
        ("200%", 80),
    ]
    assert ended == [*knee.stages, *measured]


async def test_a_start_above_the_knee_shrinks_and_nothing_held_is_no_knee(serve: Serve) -> None:
    search = Search(32, lowest_rate=8, step_seconds=0.3, warm_up_seconds=0)
    knee = await find_knee(serve("--service-ms", "30").target(deadline_ms=20), Goal(20), search, CONSTANT)
    assert (knee.rate, knee.limited_by) == (None, "target")
    assert [stage.rate for stage in knee.stages] == [32, 16, 8]


async def test_a_target_that_dies_ends_the_search(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trivium.load.knee, "RECOVERY_S", 0.5)
    server = serve()
    server.later(0.3, signal.SIGKILL)
    knee = await find_knee(server.target(), search=QUICK)
    assert (knee.rate, knee.limited_by) == (None, "gone")


async def test_a_stop_ends_the_search(serve: Serve) -> None:
    monitor = Monitor()
    monitor.stop.set()
    knee = await find_knee(serve().target(), monitor=monitor)
    assert (knee.rate, knee.limited_by, knee.stages) == (None, "interrupted", ())
