"""`trivium edge-cases`, with the real edge model's embeddings."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.edge import KEY, RunningEdge
from trivium.cli.main import app
from trivium.domain.feedback import Feedback, Kind
from trivium.domain.inference import Arm, Inference, Question, ServedBy, StepAnswer
from trivium.store.engine import Database, migrate
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

SWALLOWED = ["The ATM kept my card", "A cash machine swallowed my card", "My card got stuck in the ATM <b>"]
RATES = ["Your exchange rate is wrong", "What is the rate for yen?", "The rate you used was bad"]
OTHERS = [
    "Change my PIN please",
    "I want to close my account",
    "Is there a fee for top up?",
    "Refund missing",
]


@pytest.fixture
def url(tmp_path: Path, root: Path, edge: RunningEdge, monkeypatch: pytest.MonkeyPatch) -> str:
    made = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", made)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    monkeypatch.setenv("TRIVIUM_EDGE_URL", f"http://127.0.0.1:{edge.port}")
    monkeypatch.setenv("TRIVIUM_SERVICE_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    return made


def _fill(url: str) -> None:
    async def fill() -> None:
        database = Database(url)
        await migrate(database)
        by = ServedBy("edge-v1", "edge", "edge-v1", "v1", "m")
        texts = [(text, text in SWALLOWED) for text in (*SWALLOWED, *RATES, *OTHERS) for _ in range(4)]
        for n, (text, wrong) in enumerate(texts):
            made = Inference(
                id=new_id(),
                feature="ticket-triage",
                arm=Arm.TREATMENT,
                subject_id=f"u-{n}",
                key_id="k",
                question=Question({"text": text}),
                answer=StepAnswer({"label": "lost_or_stolen_card"}, 0.9),
                served_by=by,
                degraded=False,
                fallback_reason=None,
                attempts=[],
                deadline_ms=1000,
                latency_ms=5.0,
                created_at=time.time(),
            )
            await InferenceRepository(database).add([rows_of(made)[0]], [])
            value: Any = {"label": "card_swallowed"} if wrong else None
            kind = Kind.CORRECTION if wrong else Kind.ACCEPTED
            event = Feedback(new_id(), made.id, "k", new_id(), kind, value, time.time(), time.time())
            await FeedbackRepository(database).add(event)
        await database.close()

    asyncio.run(fill())


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, ["edge-cases", "ticket-triage", *words])


def test_what_goes_wrong_is_grouped_named_and_shown(url: str, tmp_path: Path) -> None:
    _fill(url)
    page = tmp_path / "page.html"
    done = _run("--html", str(page))
    assert done.exit_code == 0, done.output
    assert "40 of 40 inferences" in done.output
    (first, *_) = json.loads(_run("--json").stdout)["edge_cases"]
    assert "card" in first["name"]
    assert first["correction"].startswith("lost_or_stolen_card should be card_swallowed: ")
    assert (first["wrong"], first["rate"]["value"]) == (first["known"], 1.0)
    assert "stuck in the ATM &lt;b&gt;" in page.read_text()
    assert "<b>" not in page.read_text()


def test_with_nothing_to_group_that_is_said(url: str) -> None:
    done = _run()
    assert done.exit_code == 0, done.output
    assert "nothing that was put right" in done.output


def test_without_the_edge_model_words_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(url)
    monkeypatch.setenv("TRIVIUM_EDGE_URL", "http://127.0.0.1:9")
    done = _run()
    assert done.exit_code == 0, done.output
    assert "grouped by words" in done.output
    assert json.loads(_run("--json").stdout)["edge_cases"][0]["correction"].startswith("lost_or_stolen_card")
