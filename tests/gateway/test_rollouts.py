"""A feature's status and decisions over HTTP, and what may start in production."""

import asyncio
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

STATUS = "/v1/features/intents/status"
DECISIONS = "/v1/features/intents/decisions"


async def _move(gateway: Any, to: Stage, action: Any = "advance") -> None:
    state = gateway.state
    feature = state.catalogue.get("intents")
    figures = {"arms": {}}
    await state.statuses.rollouts.move(feature, action, to, by="me", reason="tests", figures=figures)


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
    rest = (await gateway.client.get(f"{DECISIONS}?limit=2&before={page['next']}")).json()
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
