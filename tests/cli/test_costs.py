"""`trivium costs`, on a database of its own."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trivium.cli.main import app
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer, Usage
from trivium.store.engine import Database, migrate
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

DAY_S = 86_400


def _made(age_days: float, cost: float | None, feature: str = "ticket-summary") -> Inference:
    by = ServedBy("openai-v1", "api", "openai-v1", "v1", "m")
    return Inference(
        *(new_id(), feature, Arm.TREATMENT, "u", "k", Question({}), StepAnswer({}), by, False, None),
        [Attempt(by, "openai/m", "ok", 1.0, usage=Usage(10, 5), cost_usd=cost)],
        1000,
        5.0,
        time.time() - age_days * DAY_S,
    )


async def _fill(url: str, made: list[Inference]) -> None:
    database = Database(url)
    await migrate(database)
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])
    await database.close()


@pytest.fixture
def database_url(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", url)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    return url


def test_what_was_spent_and_what_a_month_would_cost(database_url: str) -> None:
    asyncio.run(_fill(database_url, [_made(age, 0.02) for age in (1, 1, 2, 3)] + [_made(1, None)]))
    done = CliRunner().invoke(app, ["costs", "ticket-summary"])
    assert done.exit_code == 0, done.output
    for expected in ("$0.020000", "5 of 5 requests", "1 had an attempt of unknown price", "100%", "openai/m"):
        assert expected in done.output
    told = json.loads(CliRunner().invoke(app, ["costs", "ticket-summary", "--json"]).output)
    assert told["projection"]["per_request"]["usd"] == pytest.approx(0.02)
    assert told["projection"]["unpriced"] == 1


def test_a_new_database_has_cost_nothing_and_a_wrong_name_is_told(database_url: str) -> None:
    done = CliRunner().invoke(app, ["costs"])
    assert done.exit_code == 0, done.output
    assert "route/chat" in done.output
    assert "no request with a known price" in done.output
    wrong = CliRunner().invoke(app, ["costs", "ticket-sumary"])
    assert wrong.exit_code == 2
    assert "ticket-sumary" in wrong.output
