"""What workers show to Prometheus: one of them for all, and nothing that is old."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Metric
from structlog.testing import capture_logs

from batch_worker import figures as module
from batch_worker.figures import Figures
from support.ledger import Ledger
from support.rollouts import Watched, watched
from trivium.domain.inference import Arm
from trivium.domain.rollout import Stage
from trivium.features import Catalogue, find_feature
from trivium.rollouts.status import Sources, status_of
from trivium.store.attempts import AttemptRepository
from trivium.store.engine import Database
from trivium.store.figures import FigureRepository
from trivium.store.leases import LeaseRepository
from trivium.store.outcomes import OutcomeRepository

SHOWN = (
    *("trivium_rollout_stage", "trivium_feature_metric", "trivium_feature_gate_broken"),
    *(
        "trivium_override_rate_day",
        "trivium_runs",
        "trivium_run_silent_seconds",
        "trivium_cost_projected_usd",
    ),
)


def _sources(of: Watched) -> Sources:
    return Sources(of.rollouts, OutcomeRepository(of.database), AttemptRepository(of.database))


def _figures(of: Watched, name: str, sources: Sources | None = None) -> Figures:
    stored = find_feature(Path(__file__).parents[2] / "features", "similar-tickets")
    catalogue = Catalogue({one.name: one for one in (of.feature, stored)})
    known = sources or _sources(of)
    return Figures(catalogue, list, FigureRepository(of.database), known, LeaseRepository(of.database), name)


def _shown(name: str, **labels: str) -> dict[tuple[str, ...], float]:
    """A gauge's series with these labels, by the values of the others."""
    found: list[Metric] = [one for one in REGISTRY.collect() if one.name == name]
    return {
        tuple(value for label, value in sample.labels.items() if label not in labels): sample.value
        for metric in found
        for sample in metric.samples
        if labels.items() <= sample.labels.items()
    }


@pytest.fixture
async def stage(database: Database, root: Path, tmp_path: Path) -> Watched:
    made = watched(database, root, tmp_path)
    await made.enter(Stage.EXPAND_50)
    await made.serve(Arm.TREATMENT, 80, degraded=8, overridden=40)
    await made.serve(Arm.CONTROL, 80, overridden=8)
    return made


async def test_what_is_shown_is_what_the_rollout_says(stage: Watched) -> None:
    shows = _figures(stage, "one")
    await shows.look()
    own = {"feature": stage.feature.name}
    stages = _shown("trivium_rollout_stage", **own)
    assert stages == {(one.value,): float(one is Stage.EXPAND_50) for one in Stage}
    status = await status_of(stage.feature, _sources(stage))
    for arm, metrics in status.arms.items():
        found = _shown("trivium_feature_metric", arm=arm.value, **own)
        assert metrics.adoption and metrics.override_rate and metrics.error_rate and metrics.p99_ms
        assert found == {
            ("adoption",): metrics.adoption.value,
            ("override_rate",): metrics.override_rate.value,
            ("error_rate",): metrics.error_rate.value,
            ("p99_ms",): metrics.p99_ms.value,
        }
    assert _shown("trivium_feature_metric", arm="treatment", **own)["error_rate",] == pytest.approx(0.1)
    verdicts = {one.metric: one.says for one in status.judgement.verdicts}
    assert verdicts["error_rate"] == "broken" and verdicts["override_rate"] == "undecided"
    broken = _shown("trivium_feature_gate_broken", **own)
    assert broken == {(name,): float(says == "broken") for name, says in verdicts.items()}
    day = _shown("trivium_override_rate_day", arm="treatment", **own)
    assert day["value",] == 0.5 and 0.3 < day["low",] < 0.45
    assert _shown("trivium_feature_metric", feature="similar-tickets") == {}, "nothing was counted"
    await _end(shows)


async def test_gates_and_budgets_are_those_of_the_manifests(stage: Watched) -> None:
    module.show_manifests(Catalogue({stage.feature.name: stage.feature}))
    gates = _shown("trivium_feature_gate", feature=stage.feature.name)
    assert gates == {
        ("adoption",): 0.15,
        ("override_rate",): 0.4,
        ("error_rate",): 0.02,
        ("p99_ms",): 4000.0,
    }
    assert _shown("trivium_budget_limit_usd", bucket="feature:ticket-triage") == {(): 500.0}


async def test_too_few_judged_answers_say_nothing_of_a_day(
    database: Database, root: Path, tmp_path: Path
) -> None:
    few = watched(database, root, tmp_path)
    await few.serve(Arm.TREATMENT, 14, requests=2, overridden=14)
    shows = _figures(few, "one")
    await shows.look()
    assert _shown("trivium_override_rate_day", feature=few.feature.name) == {}
    assert _shown("trivium_feature_metric", metric="override_rate", feature=few.feature.name)
    await _end(shows)


async def test_runs_and_costs_are_shown_at_every_round_and_go_when_they_are_over(stage: Watched) -> None:
    shows = _figures(stage, "one")
    ledger = Ledger(stage.database)
    run_id = await ledger.start(2, 1)
    await shows.look()
    assert _shown("trivium_runs", feature="triage") == {("running",): 1.0}
    assert set(_shown("trivium_run_silent_seconds")) == {("triage",), ("similar-tickets",)}
    assert set(_shown("trivium_runs", feature="similar-tickets").values()) == {0.0}
    await ledger.runs.cancel(run_id)
    await shows.look()
    assert _shown("trivium_runs", feature="triage") == {("cancelled",): 1.0}
    assert _shown("trivium_run_silent_seconds") == {("similar-tickets",): 0.0}
    assert _shown("trivium_cost_projected_usd") == {(stage.feature.name,): 0.0}
    await _end(shows)


async def test_one_worker_shows_for_all_and_another_takes_over(stage: Watched) -> None:
    first, second = _figures(stage, "one"), _figures(stage, "two")
    await first.look()
    assert _shown("trivium_rollout_stage")
    # Gauges are the process's: that the second shows nothing, it shows by taking nothing away.
    await second.look()
    assert _shown("trivium_rollout_stage")
    await _end(first)
    assert not any(_shown(name) for name in SHOWN)
    await second.look()
    assert all(_shown(name) for name in SHOWN)
    await first.look()
    await _end(second)
    assert not any(_shown(name) for name in SHOWN)


async def test_metrics_are_counted_less_often_than_runs(stage: Watched) -> None:
    shows = _figures(stage, "one")
    await shows.look()
    await stage.rollouts.move(
        stage.feature, "roll_back", Stage.STAGING, by="ann", reason="it is bad", figures={}
    )
    await shows.look()
    assert _shown("trivium_rollout_stage", feature=stage.feature.name)["expand-50",] == 1
    shows._metrics_due = 0.0
    await shows.look()
    assert _shown("trivium_rollout_stage", feature=stage.feature.name)["staging",] == 1
    await _end(shows)


async def test_without_flags_there_is_no_stage_but_runs_and_costs(stage: Watched) -> None:
    shows = _figures(stage, "one")
    shows._sources = None
    await shows.look()
    assert _shown("trivium_rollout_stage") == {} == _shown("trivium_feature_metric")
    assert _shown("trivium_runs") and _shown("trivium_cost_projected_usd")
    await _end(shows)


async def test_a_database_that_is_away_ends_no_worker_and_old_figures_go(
    stage: Watched, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "away.db").mkdir()  # SQLite cannot open a folder
    away = Database(f"sqlite+aiosqlite:///{tmp_path / 'away.db'}")
    shows = _figures(stage, "one")
    await shows.look()
    shows._leases = LeaseRepository(away)
    with capture_logs() as logs:
        await shows.look()
    assert [(line["event"], line["detail"]) for line in logs] == [
        ("figures_not_read", "The database is away")
    ]
    assert _shown("trivium_rollout_stage"), "for a moment"
    shows._shown_at = time.monotonic() - module.LONGEST_S - 1
    with capture_logs():
        await shows.look()
    assert not any(_shown(name) for name in SHOWN)
    running = asyncio.create_task(shows.run())
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            while not logs:
                await asyncio.sleep(0.02)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    await away.close()


async def _end(shows: Figures) -> None:
    """As a worker that ends does."""
    running: asyncio.Task[Any] = asyncio.create_task(shows.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
