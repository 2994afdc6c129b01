"""A feature's status and decisions over HTTP, and what may start in production."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.app import create_app
from gateway.settings import GatewaySettings
from trivium.domain.rollout import Stage
from trivium.errors import ConfigurationError
from trivium.features import load_catalogue
from trivium.promotions import check_promoted
from trivium.rollouts.stages import Rollouts
from trivium.rollouts.status import Sources
from trivium.store.attempts import AttemptRepository
from trivium.store.decisions import DecisionRepository
from trivium.store.engine import Database
from trivium.store.outcomes import OutcomeRepository

STATUS = "/v1/features/intents/status"
DECISIONS = "/v1/features/intents/decisions"


async def _move(gateway: Any, to: Stage, action: Any = "advance") -> None:
    state = gateway.state
    feature = state.catalogue.get("intents")
    figures: dict[str, Any] = {"arms": {}}
    await state.statuses.sources.rollouts.move(feature, action, to, by="me", reason="tests", figures=figures)


async def test_a_status_has_stage_metrics_verdicts_and_what_they_support(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1")
    for _ in range(3):
        await gateway.infer("M-1", "text of M-1")
    await gateway.state.recorder.flush()
    answer = await gateway.client.get(STATUS)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["stage"], body["since"], body["decision"]) == ("staging", None, None)
    treatment = body["arms"]["treatment"]
    assert (treatment["subjects"], treatment["requests"]) == (1, 3)
    assert treatment["error_rate"]["n"] == 3
    assert treatment["override_rate"] is None
    assert {verdict["says"] for verdict in body["verdicts"]} == {"not enough data"}
    assert body["supports"] == "hold"
    assert "has not been promoted" in body["why"][0]


async def test_a_status_is_split_by_day_variant_and_stage(gateway: Any, worker: Any) -> None:
    day = datetime.now(UTC).date()
    await worker.compute("M-1")
    await gateway.infer("M-1", "text of M-1")
    await gateway.infer("M-1", "text of M-1", subject={"id": "somebody"})
    await _move(gateway, Stage.LIMITED)
    await gateway.infer("M-1", "text of M-1")
    await gateway.state.recorder.flush()
    seen = {}
    for by in ("day", "variant", "stage"):
        parts = (await gateway.client.get(f"{STATUS}?by={by}")).json()["parts"]
        seen[by] = [(one["part"], one["arm"], one["metrics"]["requests"]) for one in parts]
    assert {part for part, _, _ in seen["day"]} <= {str(day), str(datetime.now(UTC).date())}
    assert sum(count for _, arm, count in seen["day"] if arm == "treatment") == 2
    version = gateway.state.catalogue.get("intents").variants["stored-v1"].version
    assert seen["variant"] == [("static", "control", 1), (f"stored-v1/{version}", "treatment", 2)]
    limited = next(part for part, _, _ in seen["stage"] if part.endswith(" limited"))
    assert sorted(seen["stage"]) == [
        (limited, "treatment", 1),
        ("before", "control", 1),
        ("before", "treatment", 1),
    ]
    assert (await gateway.client.get(f"{STATUS}?by=week")).status_code == 422


async def test_without_a_database_that_is_told(gateway: Any, tmp_path: Path) -> None:
    assert (await gateway.client.get(STATUS)).status_code == 200  # its key is known from here on
    nowhere = tmp_path / "nowhere.db"
    nowhere.mkdir()  # SQLite cannot open a folder
    away = Database(f"sqlite+aiosqlite:///{nowhere}")
    rollouts = Rollouts(DecisionRepository(away), gateway.state.statuses.sources.rollouts.admin)
    gateway.state.statuses.sources = Sources(rollouts, OutcomeRepository(away), AttemptRepository(away))
    for path in (f"{STATUS}?by=day", DECISIONS, STATUS.replace("intents", "asked-at-once")):
        answer = await gateway.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), path
        assert answer.headers["retry-after"]
    assert (await gateway.client.get(STATUS)).status_code == 200  # counted a moment ago
    await away.close()


async def test_many_who_ask_at_once_are_counted_for_once(gateway: Any, worker: Any) -> None:
    first = (await gateway.client.get(STATUS)).json()
    await worker.compute("M-1")
    await gateway.infer("M-1", "text of M-1")
    await gateway.state.recorder.flush()
    others = await asyncio.gather(*(gateway.client.get(STATUS) for _ in range(20)))
    assert all(one.json() == first for one in others)


async def test_decisions_are_paged_and_move_the_stage(gateway: Any) -> None:
    for stage in (Stage.LIMITED, Stage.EXPAND_25):
        await _move(gateway, stage)
    await _move(gateway, Stage.STAGING, "roll_back")
    page = (await gateway.client.get(f"{DECISIONS}?limit=2")).json()
    assert [one["to_stage"] for one in page["decisions"]] == ["staging", "expand-25"]
    assert page["decisions"][0]["decided_by"] == "me"
    rest = (await gateway.client.get(f"{DECISIONS}?limit=2&after={page['next']}")).json()
    assert [(one["from_stage"], one["to_stage"]) for one in rest["decisions"]] == [("staging", "limited")]
    assert rest["next"] is None
    status = (await gateway.client.get(STATUS)).json()
    assert (status["stage"], status["decision"]["action"]) == ("staging", "roll_back")
    assert status["since"] is not None


@pytest.mark.parametrize("path", [STATUS, DECISIONS])
async def test_who_may_not_ask_or_asks_for_nothing_is_told(gateway: Any, path: str) -> None:
    wrong = await gateway.client.get(path, headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    missing = await gateway.client.get(path.replace("intents", "nonsense"))
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_version_that_was_not_promoted_does_not_start_in_production(
    features: Path,
) -> None:
    catalogue = load_catalogue(features)
    check_promoted(catalogue, "development")
    check_promoted(catalogue, "staging")
    with pytest.raises(ConfigurationError) as caught:
        check_promoted(catalogue, "production")
    assert caught.value.detail.count("trivium variant promote") == 3
    assert "intents serves stored-v1" in caught.value.detail
    production = GatewaySettings(
        environment="production", service_key=SecretStr("own"), features_dir=features, state_dir=features
    )
    app = create_app(production)
    with pytest.raises(ConfigurationError, match="has not been promoted"):
        async with app.router.lifespan_context(app):
            pass
