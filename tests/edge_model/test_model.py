"""The shipped model: what it is held to, and what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest

from edge_model.runtime import Model, Outputs
from support.edge import REAL_DATA
from trivium.features import load_feature

OUT_OF_SCOPE = REAL_DATA / "clinc150" / "out_of_scope.json"


def _answers(model: Model, texts: list[str]) -> Outputs:
    return Outputs.joined([model.run([row]) for row in model.encode(texts)])


def test_the_bare_model_is_right_on_the_golden_set(root: Path, model: Model) -> None:
    """Without abstentions; what the variant as a whole reaches is its evaluation's to say."""
    feature = load_feature(root / "features" / "ticket-triage" / "feature.yaml")
    lines = (feature.folder / feature.manifest.evaluation.dataset).read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 4 * 77
    best = _answers(model, [case["input"]["text"] for case in cases]).probabilities.argmax(axis=1)
    right = [model.card.labels[b] == c["expected"]["label"] for b, c in zip(best, cases, strict=True)]
    assert np.mean(right) >= 0.85


def test_the_card_credits_data_and_base_model_and_meets_what_is_promised(model: Model) -> None:
    card = model.card
    assert "banking77" in card.provenance.data
    assert "CC-BY-4.0" in card.provenance.data
    assert "MiniLM" in card.provenance.base_model
    assert len(card.labels) == 77
    assert card.metrics["accuracy"] >= 0.94
    assert card.metrics["int8_loss"] <= 0.005
    assert card.calibration.ece < 0.03
    assert card.scope.far
    assert card.scope.far.mahalanobis > 0.98


@pytest.mark.skipif(not OUT_OF_SCOPE.exists(), reason=f"no {OUT_OF_SCOPE}; set REAL_DATA_DIR")
def test_messages_about_other_things_score_lower(root: Path, model: Model) -> None:
    found = json.loads(OUT_OF_SCOPE.read_text())
    outside = [item if isinstance(item, str) else item[0] for part in found.values() for item in part]
    lines = (root / "features/ticket-triage/evals/golden.jsonl").read_text().splitlines()
    inside = [json.loads(line)["input"]["text"] for line in lines]
    low, high = _answers(model, outside).in_scope, _answers(model, inside).in_scope
    pairs = high[:, None] > low[None, :]
    assert pairs.mean() > 0.9
    assert (low >= 0.5).mean() < 0.1
    assert (high >= 0.5).mean() > 0.75
