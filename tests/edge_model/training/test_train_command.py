"""`trivium train` up to the moment where the trainer takes over."""

import os
import sys
from pathlib import Path

import pytest

from support.platform import ROOT
from trivium.cli import train as cli
from trivium.errors import ConfigurationError, NotFound
from trivium.features import find_feature

FEATURES = ROOT / "features"


def test_the_manifest_gives_the_model_and_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[str] = []

    def execv(path: str, argv: list[str]) -> None:
        called.extend(argv)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(cli, "_check_installed", lambda: None)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(FEATURES))
    monkeypatch.setenv("TRIVIUM_MODELS_DIR", str(tmp_path))
    cli.train("ticket-triage", tmp_path / "labelled.csv", label_field="intent", reduce_range=False)
    assert called[:3] == [sys.executable, "-m", "edge_model.training"]
    assert called[-2:] == ["--", str(tmp_path / "labelled.csv")]
    assert set(called[3:-2]) == {
        "--name=ticket-triage",
        f"--models={tmp_path}",
        "--text-field=text",
        "--label-field=intent",
        "--min-accuracy=0.9",
        "--full-range",
    }
    with pytest.raises(NotFound, match="no feature 'nosuch'"):
        cli.train("nosuch", tmp_path / "labelled.csv")


def test_a_feature_without_an_edge_variant_has_nothing_to_train() -> None:
    with pytest.raises(ConfigurationError, match="similar-tickets has no edge variant"):
        cli.model_of(find_feature(FEATURES, "similar-tickets"))


def test_what_is_missing_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "NEEDED", ("typer", "no_such_package"))
    with pytest.raises(ConfigurationError, match=r"needs no_such_package, .*make train .*torch==") as caught:
        cli._check_installed()
    assert "typer," not in str(caught.value)
