"""Moves: the flag first, the record second, and who wins when two move at once."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.rollouts import Watched, watched
from trivium.domain.inference import Arm
from trivium.domain.rollout import Stage
from trivium.errors import Conflict
from trivium.features import Feature
from trivium.flag_admin import FileAdmin, Plan
from trivium.rollouts.stages import Rollouts
from trivium.rollouts.status import Sources, status_of
from trivium.store.attempts import AttemptRepository
from trivium.store.decisions import DecisionRepository
from trivium.store.engine import Database
from trivium.store.outcomes import OutcomeRepository

WHY: dict[str, Any] = {"by": "ann", "reason": "why not", "figures": {}}


@pytest.fixture
async def limited(database: Database, root: Path, tmp_path: Path) -> Watched:
    """A feature in limited."""
    made = watched(database, root, tmp_path)
    await made.enter(Stage.LIMITED)
    return made


async def test_before_the_first_decision_the_flag_says_the_stage(
    database: Database, root: Path, tmp_path: Path
) -> None:
    made = watched(database, root, tmp_path)
    stages = {0: "staging", 4: "staging", 10: "limited", 25: "expand-25", 49: "expand-25", 99: "expand-50"}
    for percent, stage in {**stages, 100: "ga"}.items():
        await made.rollouts.admin.apply(Plan(made.feature.manifest.rollout.flag, percent))
        standing = await made.rollouts.now(made.feature)
        assert (standing.stage, standing.percent, standing.days) == (stage, percent, None)


async def test_a_way_back_wins_over_an_advance_that_was_made_meanwhile(limited: Watched) -> None:
    before = await limited.rollouts.now(limited.feature)
    await limited.rollouts.switch(limited.feature, Stage.STAGING)
    await limited.enter(Stage.EXPAND_25)
    assert limited.strategies()
    made = await limited.rollouts.record(limited.feature, before, "roll_back", Stage.STAGING, **WHY)
    assert (made.from_stage, made.to_stage) == (Stage.EXPAND_25, Stage.STAGING)
    assert limited.strategies() == []
    assert (await limited.rollouts.now(limited.feature)).stage is Stage.STAGING


async def test_an_advance_gives_way_and_leaves_the_flag_to_the_other(limited: Watched) -> None:
    before = await limited.rollouts.now(limited.feature)
    await limited.rollouts.move(limited.feature, "roll_back", Stage.STAGING, **WHY)
    await limited.rollouts.switch(limited.feature, Stage.EXPAND_25)
    with pytest.raises(Conflict):
        await limited.rollouts.record(limited.feature, before, "advance", Stage.EXPAND_25, **WHY)
    assert limited.strategies() == []
    assert (await limited.rollouts.now(limited.feature)).stage is Stage.STAGING


async def test_of_many_who_move_at_once_flag_and_record_agree(limited: Watched) -> None:
    others = [Rollouts(DecisionRepository(limited.database), FileAdmin(limited.flags)) for _ in range(4)]
    moves = [one.move(limited.feature, "advance", Stage.EXPAND_25, **WHY) for one in others]
    back = limited.rollouts.move(limited.feature, "roll_back", Stage.STAGING, **WHY)
    done = await asyncio.gather(*moves[:2], back, *moves[2:], return_exceptions=True)
    assert not isinstance(done[2], BaseException), done[2]
    assert all(isinstance(one, Conflict) for one in done if isinstance(one, BaseException))
    standing = await limited.rollouts.now(limited.feature)
    assert standing.percent == standing.stage.percent(10)


async def test_a_move_that_was_cut_off_shows_and_is_completed_by_itself(limited: Watched) -> None:
    await limited.rollouts.switch(limited.feature, Stage.EXPAND_25)  # and there it was killed
    standing = await limited.rollouts.now(limited.feature)
    assert (standing.stage, standing.percent) == (Stage.LIMITED, 25)
    await limited.enter(Stage.EXPAND_25)
    standing = await limited.rollouts.now(limited.feature)
    assert (standing.stage, standing.percent) == (Stage.EXPAND_25, 25)


def _with_version(feature: Feature, version: str) -> Feature:
    served = replace(feature.variants[feature.manifest.serve], version=version)
    return replace(feature, variants={**feature.variants, served.name: served})


async def test_a_version_that_comes_into_a_stage_is_not_judged_by_the_one_before(limited: Watched) -> None:
    sources = Sources(
        limited.rollouts, OutcomeRepository(limited.database), AttemptRepository(limited.database)
    )
    await limited.serve(Arm.TREATMENT, 5)
    assert (await status_of(limited.feature, sources)).treatment.subjects == 5
    changed = _with_version(limited.feature, "changed")
    assert (await status_of(changed, sources)).treatment.subjects == 0, "it has not been tried yet"
    await limited.serve(Arm.TREATMENT, 3, version="changed")
    assert (await status_of(changed, sources)).treatment.subjects == 3
