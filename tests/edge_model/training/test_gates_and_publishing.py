import shutil
from pathlib import Path

import pytest

from edge_model.artefacts import Source
from edge_model.card import Calibration, Card, Environment, Provenance, Scope, sha256_of
from edge_model.training.cpu import has_vnni
from edge_model.training.gates import Limits, gates
from edge_model.training.registry_folder import next_version, publish
from trivium.errors import Conflict

GOOD = {
    "accuracy": 0.95,
    "macro_f1": 0.95,
    "int8_loss": 0.0,
    "export_gap": 0.0,
    "served_gap": 0.0,
    "ece": 0.01,
    "p99_ms": 5.0,
}


def _card(version: str) -> Card:
    return Card(
        name="m",
        version=version,
        labels=["a", "b"],
        max_tokens=64,
        hidden_size=8,
        provenance=Provenance(
            base_model="b",
            data="d",
            train_examples=1,
            validation_examples=1,
            held_out_examples=1,
            seed=1,
            recipe={},
            seconds=1.0,
        ),
        metrics=GOOD,
        calibration=Calibration(
            temperature=1.0,
            ece=0.01,
            confidence_at_98_precision=0.5,
            coverage_at_98_precision=0.9,
            precision_there=0.98,
        ),
        scope=Scope(distance_at_threshold=1.0, slope=1.0, target_kept=0.95, kept=0.95),
        environment=Environment(
            torch="", transformers="", onnxruntime="", vnni=True, reduce_range=False, threads=2
        ),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("accuracy", 0.89),
        ("macro_f1", 0.89),
        ("int8_loss", 0.006),
        ("export_gap", 0.002),
        ("served_gap", 0.2),
        ("ece", 0.031),
        ("p99_ms", 1000.0),
        ("accuracy", float("nan")),
        ("ece", float("nan")),
    ],
)
def test_every_gate_can_fail_and_says_figure_and_limit(name: str, figure: float) -> None:
    assert all(gate.passed for gate in gates(GOOD, Limits()))
    failed = [gate for gate in gates(GOOD | {name: figure}, Limits()) if not gate.passed]
    assert [gate.name for gate in failed] == [name]
    assert f"{figure:.4g}" in str(failed[0])
    assert f"{failed[0].limit:.4g}" in str(failed[0])


def test_a_version_appears_whole_with_its_checksums(tmp_path: Path) -> None:
    models = tmp_path / "models"
    written = publish(_made(tmp_path / "made"), _card("3"), models)
    card = Card.model_validate_json((written / "model.json").read_text())
    assert card.sha256 == {name: sha256_of(written / name) for name in ("model.onnx", "tokenizer.json")}
    assert [path.name for path in models.iterdir()] == ["m"]
    assert next_version(models, "m") == "4"
    assert next_version(models, "other") == "1"


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    made, models = _made(tmp_path / "made"), tmp_path / "models"
    written = publish(made, _card("1"), models)
    before = (written / "model.json").read_bytes()
    with pytest.raises(Conflict, match="versions never change"):
        publish(made, _card("1"), models)
    assert (written / "model.json").read_bytes() == before
    assert [path.name for path in models.iterdir()] == ["m"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    made, models = _made(tmp_path / "made"), tmp_path / "models"
    (made / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError):
        publish(made, _card("1"), models)
    assert list(models.iterdir()) == []


def test_what_a_kill_leaves_half_written_is_not_in_the_registry(tmp_path: Path) -> None:
    models = tmp_path / "models"
    written = publish(_made(tmp_path / "made"), _card("1"), models)
    shutil.copytree(written, models / ".m-2.partial")
    assert [str(found) for found in Source(str(models)).list()] == ["m/1"]
    assert next_version(models, "m") == "2"
    publish(tmp_path / "made", _card("2"), models)
    assert sorted(str(found) for found in Source(str(models)).list()) == ["m/1", "m/2"]
    assert not (models / ".m-2.partial").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("", False),
    ],
)
def test_vnni_is_read_from_the_flags_of_the_cpu(tmp_path: Path, content: str, found: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(content)
    assert has_vnni(path) is found
    assert has_vnni(tmp_path / "absent") is False
