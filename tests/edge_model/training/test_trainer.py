"""The real trainer with the real base model, on a small sample; skipped where torch is not installed."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_model.artefacts import Source
from edge_model.card import Card
from edge_model.runtime import Model
from trivium.cli import train as cli

torch = pytest.importorskip("torch", reason="torch is not installed; the extra `train` brings it")
QUICK = [
    "--members=1",
    "--epochs=2",
    "--held-out=0.2",
    "--validation=0.2",
    "--max-ece=1",
    "--max-p99-ms=5000",
]
SAME = 1e-4
"""Figures of two trainings with one seed on one machine differ by less."""


@dataclass(frozen=True)
class Run:
    folder: Path
    card: Card
    told: str


def _argv(data: Path, models: Path, *words: str) -> list[str]:
    where = [f"--models={models}", "--name=small", "--threads=1"]
    return [sys.executable, "-m", cli.TRAINER, *where, *QUICK, *words, "--", str(data)]


def _train(data: Path, models: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _argv(data, models, *words), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def trained(sample: Path, out_of_scope: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    models = tmp_path_factory.mktemp("registry") / "models"
    plot = models.parent / "plot.svg"
    done = _train(sample, models, f"--out-of-scope={out_of_scope}", f"--plot={plot}")
    assert done.returncode == 0, done.stderr
    assert plot.stat().st_size > 1000
    folder = models / "small" / "1"
    return Run(folder, Card.model_validate_json((folder / "model.json").read_text()), done.stderr)


def _model(run: Run) -> Model:
    source = Source(str(run.folder.parents[1]))
    return Model(source.fetch(source.list()[0]))


def test_the_artefact_has_the_interface_that_the_server_expects(trained: Run) -> None:
    session = onnxruntime.InferenceSession(str(trained.folder / "model.onnx"))
    assert {(i.name, i.type) for i in session.get_inputs()} == {
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    }
    ids = np.array([[2, 3, 4, 5], [2, 5, 0, 0]], dtype=np.int64)
    outputs = session.run(None, {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    assert [output.name for output in session.get_outputs()] == ["probabilities", "embedding", "in_scope"]
    assert [output.shape for output in outputs] == [(2, 3), (2, 384), (2,)]
    assert {output.dtype for output in outputs} == {np.dtype("float32")}
    np.testing.assert_allclose(outputs[0].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(outputs[1], axis=1), 1, atol=1e-5)


def test_the_registry_loads_it_and_odd_texts_give_finite_answers(trained: Run) -> None:
    model = _model(trained)
    for text in ("", "zxqv ǂ ☃ 語", "card " * 500):
        outputs = model.run(model.encode([text]))
        for values in (outputs.probabilities, outputs.embedding, outputs.in_scope):
            assert np.isfinite(values).all()
        assert 0 <= outputs.in_scope[0] <= 1


def test_an_answer_does_not_depend_on_what_shares_its_run(trained: Run) -> None:
    assert _model(trained).is_exact_in_batches()


def test_what_is_in_scope_scores_higher_than_what_is_not(trained: Run) -> None:
    model = _model(trained)
    inside = model.run(model.encode(["What is the exchange rate?", "How old must I be to open an account?"]))
    outside = model.run(model.encode(["who wrote hamlet", "when does the next train to leeds leave"]))
    assert inside.in_scope.min() > 0.5 > outside.in_scope.max()
    far = trained.card.scope.far
    assert far is not None
    assert (far.examples, far.mahalanobis > 0.98, far.refused > 0.9) == (200, True, True)


def test_the_card_says_what_it_was_made_of(trained: Run) -> None:
    card = trained.card
    assert card.labels == ["age_limit", "atm_support", "exchange_rate"]
    parts = card.provenance
    assert parts.train_examples + parts.validation_examples + parts.held_out_examples == 72
    assert (parts.validation_examples, parts.held_out_examples) == (15, 15)
    assert card.environment.torch == torch.__version__
    assert card.metrics["served_agreement"] >= 0.9
    assert "fine-tuning" in trained.told


def test_the_same_seed_gives_the_same_figures_and_a_failed_gate_writes_nothing(
    sample: Path, trained: Run, tmp_path: Path
) -> None:
    done = _train(sample, tmp_path / "models", "--max-p99-ms=0.01")
    assert done.returncode == 1
    assert "gate p99_ms is" in done.stderr
    assert "demands at most 0.01; no version was written" in done.stderr
    assert not (tmp_path / "models").exists()
    figures = dict(re.findall(r"^ *(\w+) ([\d.e-]+)$", done.stderr, re.MULTILINE))
    for name, value in trained.card.metrics.items():
        if not name.endswith("_ms"):
            assert float(figures[name]) == pytest.approx(value, abs=SAME), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_in_mid_training_leaves_no_version(
    sample: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    models, log, scratch = tmp_path / "models", tmp_path / "log", tmp_path / "scratch"
    scratch.mkdir()
    with log.open("w") as stream:
        process = subprocess.Popen(
            _argv(sample, models, "--epochs=1000"),
            stderr=stream,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
    try:
        for _ in range(600):
            if "fine-tuning" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
    assert not models.exists()
    assert Source(str(models)).list() == []


def test_a_wrong_file_is_a_line_that_names_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "labelled.csv"
    path.write_text("text,label\nhello,a\nhi,\n")
    done = _train(path, tmp_path / "models")
    assert done.returncode == 2
    assert f"{path}:3: no value for 'label'; it has text, label" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()
