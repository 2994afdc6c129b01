"""What asks a model, by the real ones: a judge by the local LLM, similarity by the edge model."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.evaluated import MANIFEST
from support.platform import RunningPlatform
from trivium.cli.evaluate import opened
from trivium.evals.cases import Answered, Asked
from trivium.evals.evaluators import Judge, make_evaluators
from trivium.evals.evaluators.agreement import agreement, read_labelled
from trivium.features import Feature, load_feature
from trivium.llm.settings import BackendSettings
from trivium.patterns.steps import Backends

pytestmark = pytest.mark.platform
CARD = "Where is my new card? It has not arrived."


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Any], Feature]:
    def make(*evaluators: Any) -> Feature:
        folder = tmp_path / "reply"
        folder.mkdir()
        (folder / "feature.yaml").write_text(MANIFEST.format(evaluators=json.dumps(evaluators), gates="{}"))
        (folder / "golden.jsonl").write_text('{"id": "1", "expected": {}}\n')
        (folder / "rubric.md").write_text("The label must name what the customer asks about.")
        return load_feature(folder / "feature.yaml")

    return make


@pytest.fixture
async def backends(
    platform: RunningPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backends]:
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(platform.state_dir))
    monkeypatch.setenv("TRIVIUM_PORT_OFFSET", str(platform.offset))
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    async with opened(BackendSettings()) as (made, _):
        yield made


async def test_a_real_model_judges_and_is_held_against_people(
    make: Callable[..., Feature], backends: Backends, tmp_path: Path
) -> None:
    (judge,) = make_evaluators(make({"judge": {"rubric": "rubric.md", "model": "local/smollm2"}}), backends)
    assert isinstance(judge, Judge)
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        json.dumps({"input": {"text": CARD}, "output": {"label": "card_arrival"}, "label": "pass"})
    )
    found = await agreement(judge, read_labelled(labels))
    assert (found.n, found.failed) == (1, [])
    for _, opinion in found.disagreements:
        assert opinion.score in (0, 0.25)
        assert opinion.reason


async def test_similarity_is_that_of_the_edge_models_embeddings(
    make: Callable[..., Feature], backends: Backends
) -> None:
    (scorer,) = make_evaluators(make({"similarity": {"model": "ticket-triage/2"}}), backends)

    async def similar(got: str, wanted: str) -> float:
        context: Any = SimpleNamespace(
            inputs=Asked({}),
            output=Answered({"label": got}, None, None, 1.0, 0.0),
            expected_output={"label": wanted},
        )
        scores = await scorer.evaluate(context)
        return float(scores["similarity"])

    assert await similar(CARD, CARD) == pytest.approx(1.0, abs=1e-4)
    near = await similar(CARD, "My card is still not here.")
    assert near > await similar(CARD, "Which currencies do you exchange?") + 0.2
    assert await similar(CARD, " ") == 0.0
