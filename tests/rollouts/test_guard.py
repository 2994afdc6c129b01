"""The guard on real rows: what it lets be, what it takes back, and that it does so once."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from support.rollouts import Watched, watched
from trivium.domain.inference import Arm
from trivium.domain.manifest import Cohort
from trivium.domain.rollout import Stage
from trivium.domain.scorecard import ArmOutcomes
from trivium.domain.sequential import alpha_of
from trivium.flag_admin import Plan
from trivium.rollouts.arms import Rules, compare
from trivium.store.audit import AuditRepository
from trivium.store.engine import Database

HALF = Stage.EXPAND_50


@pytest.fixture
async def half(database: Database, root: Path, tmp_path: Path) -> Watched:
    """A feature that has come to expand-50."""
    made = watched(database, root, tmp_path)
    await made.enter(HALF)
    return made


async def test_a_feature_that_is_no_worse_stays(half: Watched) -> None:
    for arm in Arm:
        await half.serve(arm, 150, degraded=3, slow=1, overridden=40)
    finding = await half.guard.check(half.feature)
    assert finding.outcome == "fine"
    assert {bound.alpha for bound in finding.bounds.values()} == {alpha_of("errors", 1)}
    assert finding.bounds["errors"].treatment == finding.bounds["errors"].control == 0.02
    assert await half.decisions() == []
    assert (await half.rollouts.now(half.feature)).stage is HALF


@pytest.mark.parametrize("metric", ["errors", "slow", "overrides"])
async def test_what_is_proven_worse_is_rolled_back_once(half: Watched, metric: str) -> None:
    count = {"errors": 0, "slow": 0, "overrides": 30, metric: 90}
    await half.serve(Arm.CONTROL, 150, overridden=30)
    await half.serve(
        Arm.TREATMENT, 150, degraded=count["errors"], slow=count["slow"], overridden=count["overrides"]
    )
    finding = await half.guard.check(half.feature)
    assert finding.proven == [metric]
    (made,) = await half.decisions()
    assert (made.action, made.from_stage, made.to_stage) == ("roll_back", HALF, Stage.STAGING)
    assert made.version == half.version and not made.overridden
    assert metric in made.reason and "in control" in made.reason
    figures = made.figures["bounds"][metric]
    assert figures["treatment"] - figures["control"] > figures["low"] > figures["margin"]
    assert half.strategies() == []
    assert (await half.guard.check(half.feature)).outcome == "not_running"
    assert len(await half.decisions()) == 1


async def test_below_the_minimum_exposure_nothing_is_said(half: Watched) -> None:
    await half.serve(Arm.CONTROL, 59, overridden=0)
    await half.serve(Arm.TREATMENT, 59, degraded=59, slow=59, overridden=59)
    finding = await half.guard.check(half.feature)
    assert (finding.outcome, finding.bounds) == ("not_enough", {})
    assert await half.decisions() == []
    assert half.strategies()


async def test_an_arm_that_says_nothing_proves_nothing(half: Watched) -> None:
    """Where the product sends no feedback of control, its overrides are unknown, not nil."""
    await half.serve(Arm.CONTROL, 150)
    await half.serve(Arm.TREATMENT, 150, overridden=150)
    finding = await half.guard.check(half.feature)
    assert finding.outcome == "fine" and finding.figures["bounds"]["overrides"]["low"] is None
    json.dumps(finding.figures, allow_nan=False)


async def test_a_sample_ratio_mismatch_holds_once_and_a_regression_still_rolls_back(half: Watched) -> None:
    await half.serve(Arm.CONTROL, 260)
    await half.serve(Arm.TREATMENT, 120)
    for _ in range(2):
        finding = await half.guard.check(half.feature)
        assert finding.outcome == "sample_ratio"
    (held,) = await half.decisions()
    assert (held.action, held.from_stage, held.to_stage) == ("hold", HALF, HALF)
    assert "31.6% of 380 subjects" in held.reason and "50% should be" in held.reason
    assert half.strategies(), "a hold leaves the flag as it is"
    await half.serve(Arm.TREATMENT, 120, degraded=120)
    assert (await half.guard.check(half.feature)).outcome == "regression"
    assert [one.action for one in await half.decisions()] == ["roll_back", "hold"]


async def test_a_killed_flag_is_no_mismatch(half: Watched) -> None:
    await half.rollouts.admin.apply(Plan.of(half.feature.manifest.rollout, Stage.STAGING))
    await half.serve(Arm.CONTROL, 260)
    await half.serve(Arm.TREATMENT, 120)
    assert (await half.guard.check(half.feature)).outcome == "fine"
    assert await half.decisions() == []


async def test_a_move_that_was_cut_off_after_the_flag_is_completed_and_recorded_once(half: Watched) -> None:
    await half.serve(Arm.CONTROL, 150)
    await half.serve(Arm.TREATMENT, 150, degraded=60)
    await half.rollouts.admin.apply(Plan.of(half.feature.manifest.rollout, Stage.STAGING))
    for _ in range(2):
        await half.guard.check(half.feature)
    assert [one.action for one in await half.decisions()] == ["roll_back"]
    assert half.strategies() == []


async def test_a_version_that_comes_again_is_looked_at_afresh_with_half_the_alpha(half: Watched) -> None:
    await half.serve(Arm.CONTROL, 150)
    await half.serve(Arm.TREATMENT, 150, degraded=60)
    await half.guard.check(half.feature)
    await half.enter(HALF)
    assert (await half.guard.check(half.feature)).outcome == "not_enough", "what was before does not count"
    for arm in Arm:
        await half.serve(arm, 100)
    finding = await half.guard.check(half.feature)
    assert finding.subjects == {"treatment": 100, "control": 100}
    assert finding.bounds["slow"].alpha == alpha_of("slow", 2) == alpha_of("slow", 1) / 2


async def test_a_new_version_in_a_running_stage_is_judged_by_its_own_time(half: Watched) -> None:
    for arm in Arm:
        await half.serve(arm, 150)
    serving = half.feature.manifest.serve
    changed = replace(half.feature.variants[serving], version="new-version")
    half.feature = replace(half.feature, variants={**half.feature.variants, serving: changed})
    assert (await half.guard.check(half.feature)).outcome == "not_enough"
    await half.serve(Arm.TREATMENT, 90, degraded=90)
    await half.serve(Arm.CONTROL, 90)
    finding = await half.guard.check(half.feature)
    assert finding.outcome == "regression"
    assert finding.subjects == {"treatment": 90, "control": 90}, "a version that only fails is seen, too"
    (made,) = await half.decisions()
    assert made.version == "new-version"


async def test_a_stage_that_nobody_recorded_is_left_alone(
    database: Database, root: Path, tmp_path: Path
) -> None:
    made = watched(database, root, tmp_path)
    await made.rollouts.admin.apply(Plan.of(made.feature.manifest.rollout, HALF))
    await made.serve(Arm.CONTROL, 150)
    await made.serve(Arm.TREATMENT, 150, degraded=150)
    assert (await made.guard.check(made.feature)).outcome == "not_running"
    assert await made.decisions() == []


def test_who_opted_in_is_compared_only_in_what_is_the_ais_own(root: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")
    cohort = Cohort(property="beta", values=["yes"])
    rollout = watched(database, root, tmp_path, limited_cohort=cohort).feature.manifest.rollout
    rules = Rules.of(rollout, Stage.LIMITED)
    assert set(rules.margins) == {"errors", "slow"}
    arms = {Arm.TREATMENT: ArmOutcomes(subjects=90), Arm.CONTROL: ArmOutcomes(subjects=9_000)}
    assert compare(rules, arms).ratio is None


def test_those_who_always_get_the_ai_are_no_mismatch() -> None:
    arms = {Arm.TREATMENT: ArmOutcomes(subjects=190), Arm.CONTROL: ArmOutcomes(subjects=900)}
    assert compare(Rules({}, 60, 0.10), arms).outcome == "sample_ratio"
    assert compare(Rules({}, 60, 0.10, always=90), arms).outcome == "fine"
    few = {Arm.TREATMENT: ArmOutcomes(subjects=20), Arm.CONTROL: ArmOutcomes(subjects=900)}
    assert compare(Rules({}, 60, 0.10, always=90), few).outcome == "sample_ratio"


async def test_what_the_guard_does_is_audited(half: Watched) -> None:
    audit = AuditRepository(half.database)
    guard = replace(half.guard, audit=audit)
    await half.serve(Arm.CONTROL, 150)
    await half.serve(Arm.TREATMENT, 150, degraded=90)
    await guard.check(half.feature)
    await guard.check(half.feature)
    (made,) = await half.decisions()
    (event,) = await audit.list(10)
    assert (event.actor, event.action, event.target, event.outcome) == (
        "guard",
        "rollout.roll_back",
        half.feature.name,
        "done",
    )
    assert event.detail == {
        "decision": made.id,
        "reason": made.reason,
        "from_stage": "expand-50",
        "to_stage": "staging",
    }


async def test_the_guard_acts_though_the_audit_log_is_away(half: Watched) -> None:
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:9/none")
    await half.serve(Arm.CONTROL, 150)
    await half.serve(Arm.TREATMENT, 150, degraded=90)
    await replace(half.guard, audit=AuditRepository(away)).check(half.feature)
    await away.close()
    assert len(await half.decisions()) == 1 and half.strategies() == []


def test_the_workers_guard_audits(root: Path) -> None:
    """Its composition root hands it the log, which it can do without."""
    tree = ast.parse((root / "services/batch-worker/batch_worker/app.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (guard,) = [call for call in calls if ast.unparse(call.func) == "Guard"]
    assert "AuditRepository(database)" in ast.unparse(guard)
