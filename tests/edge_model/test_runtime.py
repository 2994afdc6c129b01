"""The real model: loading, refusing what is broken, and answering the same however texts are batched."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_model.batching import Runner
from edge_model.card import Card, write_card
from edge_model.cpus import granted_cpus
from edge_model.registry import Registry
from edge_model.runtime import Model
from trivium.errors import ConfigurationError, NotFound, Overloaded, StepTimeout


@pytest.fixture(scope="module")
def model(root: Path) -> Model:
    return Model(root / "models" / "ticket-triage" / "1")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root / "models/ticket-triage/1", tmp_path / "ticket-triage" / "1"))


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner(slots=2, max_waiting=4)
    yield made
    made.close()


def _soon(seconds: float = 30) -> float:
    return time.monotonic() + seconds


def test_the_golden_set_meets_the_manifests_gate(root: Path, model: Model) -> None:
    from trivium.features import load_feature

    feature = load_feature(root / "features" / "ticket-triage" / "feature.yaml")
    gate = feature.manifest.evaluation.gates["accuracy"].min
    assert gate is not None
    lines = (feature.folder / feature.manifest.evaluation.dataset).read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 4 * 77
    texts = [case["input"]["text"] for case in cases]
    labels = [label for at in range(0, len(texts), 16) for label in model.run(texts[at : at + 16]).labels]
    right = sum(a == case["expected"]["label"] for a, case in zip(labels, cases, strict=True))
    assert right / len(cases) >= gate


def test_the_card_credits_data_and_base_model(model: Model) -> None:
    assert "banking77" in model.card.provenance.data
    assert "CC-BY-4.0" in model.card.provenance.data
    assert "MiniLM" in model.card.provenance.base_model
    assert model.card.metrics["held_out_accuracy"] >= 0.94
    assert len(model.card.labels) == 77


async def test_a_batch_answers_as_each_text_alone_and_in_order(model: Model, runner: Runner) -> None:
    texts = [f"{'please ' * (n % 7)}tell me where transfer {n} is" for n in range(37)]
    together = await runner.run(model, texts, _soon())
    for row, text in enumerate(texts):
        alone = model.run([text])
        # int8 activations are scaled over the whole batch, so the figures differ a little.
        assert float(together.embedding[row] @ alone.embedding[0]) > 0.97
    assert np.allclose(np.linalg.norm(together.embedding, axis=1), 1, atol=1e-4)
    assert np.allclose(together.probabilities.sum(axis=1), 1, atol=1e-4)


def test_any_text_is_answered(model: Model) -> None:
    for text in ("", " ", "x" * 100_000, "🙂" * 50, "日本語のメッセージ", "\x00\n\t"):
        outputs = model.run([text])
        assert np.isfinite(outputs.confidence).all()


async def test_too_much_waiting_is_refused_at_once(model: Model, runner: Runner) -> None:
    calls = [runner.run(model, ["where is my card " * 20] * 8, _soon()) for _ in range(30)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert refused
    assert all(r.retry_after_s for r in refused)
    assert len(refused) < 30
    assert (await runner.run(model, ["hello"], _soon())).labels


async def test_what_cannot_begin_before_its_deadline_is_refused(model: Model, runner: Runner) -> None:
    busy = [asyncio.create_task(runner.run(model, ["where is my card " * 20] * 8, _soon())) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StepTimeout):
        await runner.run(model, ["hello"], time.monotonic())
    await asyncio.gather(*busy)


async def test_callers_that_leave_free_their_places_and_harm_nobody(model: Model, runner: Runner) -> None:
    for _ in range(20):
        leaving = [
            asyncio.create_task(runner.run(model, ["where is my card"] * 8, _soon())) for _ in range(4)
        ]
        await asyncio.sleep(0.001)
        for task in leaving[::2]:
            task.cancel()
        results = await asyncio.gather(*leaving, return_exceptions=True)
        assert all(not isinstance(r, BaseException) for r in results[1::2])
    assert (await runner.run(model, ["hello"], _soon(2))).labels


def test_a_truncated_artefact_is_refused_by_its_checksum(copy: Path) -> None:
    raw = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ConfigurationError, match=r"model\.onnx: its SHA-256"):
        Model(copy)


def test_an_artefact_of_another_shape_is_refused_by_the_canary(copy: Path) -> None:
    card = Card.model_validate_json((copy / "model.json").read_bytes())
    wrong = card.model_copy(update={"labels": card.labels[:-1]})
    (copy / "model.json").write_text(wrong.model_dump_json())
    with pytest.raises(ConfigurationError, match="the card says"):
        Model(copy)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_garbage_with_the_right_checksum_is_refused_and_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{}")
    write_card(copy, Card.model_validate_json((copy / "model.json").read_bytes()))
    with pytest.raises(ConfigurationError, match="does not run"):
        Model(copy)


def test_the_registry_leaves_out_what_is_broken_and_serves_the_rest(copy: Path) -> None:
    second = copy.parent / "2"
    shutil.copytree(copy, second)
    (second / "tokenizer.json").unlink()
    registry = Registry()
    registry.load(copy.parents[1])
    assert registry.versions("ticket-triage") == ["1"]
    with pytest.raises(NotFound, match="there are: 1"):
        registry.get("ticket-triage", "2")
    with pytest.raises(NotFound, match="ticket-triage"):
        registry.get("nonsense")


@pytest.mark.parametrize(
    ("content", "most"), [("max 100000", 10_000), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_threads_come_from_the_quota_not_from_the_host(tmp_path: Path, content: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert 1 <= granted_cpus(tmp_path / "cpu.max") <= most
