"""`trivium results`: what is stored, and what is dropped."""

import subprocess
import sys

import pytest

from support.platform import ROOT, RunningPlatform, clean_environment

pytestmark = pytest.mark.platform


def _trivium(platform: RunningPlatform, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "trivium.cli.main", *words],
        cwd=ROOT,
        env=clean_environment() | {"TRIVIUM_STATE_DIR": str(platform.state_dir), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_stored_is_listed_by_variant(platform: RunningPlatform) -> None:
    shown = _trivium(platform, "results", "list").stdout
    line = next(line for line in shown.splitlines() if "similar-tickets" in line)
    assert "neighbours-v1" in line
    assert "616" in line


def test_nothing_that_can_be_served_is_dropped(platform: RunningPlatform) -> None:
    told = _trivium(platform, "results", "prune", "--dry-run").stdout
    assert "similar-tickets neighbours-v1: 0 of 616 would go" in told
    dropped = _trivium(platform, "results", "prune").stdout
    assert "similar-tickets neighbours-v1: dropped 0 of 616" in dropped
    assert "runs that ended over 30 days ago: dropped 0 rows" in dropped
    assert len(platform.infer("similar-tickets", entity_key="T-0001")["output"]["similar"]) == 5


def test_a_feature_that_there_is_not_is_told_by_name(platform: RunningPlatform) -> None:
    done = _trivium(platform, "results", "prune", "nothing")
    assert done.returncode == 1
    assert "There is no feature 'nothing'" in done.stderr
