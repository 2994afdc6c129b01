"""Decisions are written once, in turn."""

import asyncio
import time
from typing import Any

from trivium.domain.rollout import Decision, Stage
from trivium.store.decisions import DecisionRepository
from trivium.store.engine import Database
from trivium.telemetry import new_id


def _decision(from_stage: Stage, to_stage: Stage, **changes: Any) -> Decision:
    values: dict[str, Any] = {
        "id": new_id(),
        "feature": "reply",
        "action": "advance",
        "from_stage": from_stage,
        "to_stage": to_stage,
        "variant": "v1",
        "version": "abc",
        "decided_by": "someone",
        "reason": "it is good",
        "created_at": time.time(),
        "figures": {"arms": {"treatment": {"subjects": 3}}},
    }
    return Decision(**{**values, **changes})


async def test_what_is_decided_is_read_back_whole(database: Database) -> None:
    decisions = DecisionRepository(database)
    assert await decisions.latest("reply") is None
    made = _decision(Stage.STAGING, Stage.LIMITED, overridden=True)
    assert await decisions.add(made)
    assert await decisions.latest("reply") == made
    assert await decisions.latest("other") is None


async def test_a_stage_began_with_the_last_move_and_not_with_a_hold(database: Database) -> None:
    decisions = DecisionRepository(database)
    moved = _decision(Stage.STAGING, Stage.LIMITED)
    held = _decision(Stage.LIMITED, Stage.LIMITED, action="hold")
    for one in (moved, held):
        assert await decisions.add(one)
    assert await decisions.latest("reply") == held
    assert await decisions.began("reply") == moved
    assert await decisions.visits("reply", "abc", Stage.LIMITED) == 1
    assert await decisions.visits("reply", "another", Stage.LIMITED) == 0


async def test_pages_are_newest_first(database: Database) -> None:
    decisions = DecisionRepository(database)
    made = [_decision(Stage.LIMITED, Stage.LIMITED, action="hold") for _ in range(5)]
    for one in made:
        assert await decisions.add(one)
    first = await decisions.list("reply", 2)
    rest = await decisions.list("reply", 9, before=first[-1].id)
    assert [one.id for one in (*first, *rest)] == [one.id for one in reversed(made)]


async def test_of_two_who_decide_at_once_one_does(database: Database) -> None:
    decisions = DecisionRepository(database)
    assert await decisions.add(_decision(Stage.STAGING, Stage.LIMITED))
    moves = [_decision(Stage.LIMITED, Stage.EXPAND_25) for _ in range(4)]
    stored = await asyncio.gather(*(decisions.add(one) for one in moves))
    assert len([one for one in stored if one]) == 1
    latest = await decisions.latest("reply")
    assert latest
    assert latest.to_stage is Stage.EXPAND_25


async def test_the_newest_is_what_was_decided_last_whatever_the_clocks_say(database: Database) -> None:
    decisions = DecisionRepository(database)
    earlier = new_id()
    assert await decisions.add(_decision(Stage.STAGING, Stage.LIMITED))
    back = _decision(Stage.LIMITED, Stage.STAGING, action="roll_back", id=earlier)
    stored = await decisions.add(back)
    assert stored
    assert await decisions.latest("reply") == stored
    assert stored.id > earlier
