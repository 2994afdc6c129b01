"""Serving another variant changes two places of a manifest, however it is written."""

import shutil
from pathlib import Path

import pytest

from trivium.evals.manifest_text import serving
from trivium.features import load_feature

SERVE, FALLBACK = "serve: edge-v1", "fallback: [llm-v1, {static: {label: general-queue}}]"
STATIC = "{static: {label: general-queue}}"


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A copy of the shipped feature."""
    return Path(shutil.copytree(root / "features/ticket-triage", tmp_path / "ticket-triage"))


@pytest.mark.parametrize(
    ("serve", "fallback", "then"),
    [
        (SERVE, FALLBACK, f"fallback: [edge-v1, {STATIC}]"),
        ("serve: 'edge-v1'  # since May", FALLBACK, f"fallback: [edge-v1, {STATIC}]"),
        (SERVE, f"{FALLBACK}  # never empty", f"fallback: [edge-v1, {STATIC}]  # never empty"),
        (SERVE, f"fallback: [{STATIC}]", f"fallback: [edge-v1, {STATIC}]"),
        (SERVE, f"fallback: [\n  llm-v1,  # slow\n  {STATIC}  # last\n]\n", None),
        (
            SERVE,
            f"fallback:\n  # slow\n  - llm-v1\n  - {STATIC}  # last",
            f"fallback:\n  # slow\n  - edge-v1\n  - {STATIC}  # last",
        ),
        (
            SERVE,
            f"fallback:\n- {STATIC}\n\n# the rollout",
            f"fallback:\n- edge-v1\n- {STATIC}\n\n# the rollout",
        ),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_what_must_change_does(
    folder: Path, serve: str, fallback: str, then: str | None, newline: str
) -> None:
    source = folder / "feature.yaml"
    text = source.read_text().replace(SERVE, serve).replace(FALLBACK, fallback).replace("\n", newline)
    source.write_bytes(text.encode())
    after = serving(text, load_feature(source), "llm-v1")
    source.write_bytes(after.encode())
    assert load_feature(source).manifest.chain == ["llm-v1", "edge-v1"]
    assert after.count(newline) == after.count("\n")
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line and "llm-v1" not in line]
    assert all(comment in after for comment in comments)
    if then:
        put = text.replace("'edge-v1'", "edge-v1").replace(SERVE, "serve: llm-v1")
        assert after == put.replace(fallback.replace("\n", newline), then.replace("\n", newline))


def test_what_is_served_already_changes_nothing_and_what_was_comes_back(folder: Path) -> None:
    source = folder / "feature.yaml"
    source.write_text(source.read_text().replace(SERVE, "serve: llm-v1").replace("[llm-v1, ", "[edge-v1, "))
    feature = load_feature(source)
    assert serving(source.read_text(), feature, "llm-v1") == source.read_text()
    back = serving(source.read_text(), feature, "edge-v1")
    source.write_text(back)
    assert load_feature(source).manifest.chain == ["edge-v1", "llm-v1"]
