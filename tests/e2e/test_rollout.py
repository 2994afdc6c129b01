"""The kill switch and the way back, on the running platform: what a command decides reaches its users."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.platform import RunningPlatform, clean_environment

pytestmark = pytest.mark.platform
FEATURE = "ticket-triage"


def _trivium(platform: RunningPlatform, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"TRIVIUM_STATE_DIR": str(platform.state_dir), "TRIVIUM_PORT_OFFSET": str(platform.offset)}
    command = [str(Path(sys.executable).parent / "trivium"), *words]
    return subprocess.run(
        command, env={**clean_environment(), **own}, cwd=root, capture_output=True, text=True, timeout=60
    )


def _arm(platform: RunningPlatform) -> Any:
    body = {"input": {"text": "Where is my card?"}, "subject": {"id": f"u-{os.getpid()}"}}
    return platform.call(f"/v1/features/{FEATURE}/infer", body).body["arm"]


def _becomes(platform: RunningPlatform, arm: str) -> None:
    until = time.monotonic() + 20
    while _arm(platform) != arm:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_is_rolled_back_is_off_for_everybody_and_comes_back_by_stages(
    platform: RunningPlatform, root: Path
) -> None:
    assert _arm(platform) == "treatment"
    tracked = (root / "features/flags.json").read_bytes()
    back = _trivium(platform, root, "rollout", FEATURE, "--roll-back", "--reason", "a test", "--by", "tests")
    assert back.returncode == 0, back.stderr
    _becomes(platform, "control")
    status = platform.call(f"/v1/features/{FEATURE}/status").body
    assert (status["stage"], status["percent"], status["decision"]["decided_by"]) == ("staging", 0, "tests")

    words = ("rollout", FEATURE, "--advance", "--by", "tests")
    assert _trivium(platform, root, *words).returncode == 0  # it is promoted, so it may leave staging
    refused = _trivium(platform, root, *words)
    assert refused.returncode == 1
    assert "not enough data" in refused.stdout
    for _ in range(3):
        forced = _trivium(platform, root, *words, "--override", "--reason", "a test")
        assert forced.returncode == 0, forced.stdout
    _becomes(platform, "treatment")
    decisions = platform.call(f"/v1/features/{FEATURE}/decisions").body["decisions"]
    assert [one["to_stage"] for one in decisions] == ["ga", "expand-50", "expand-25", "limited", "staging"]
    assert [one["overridden"] for one in decisions] == [True, True, True, False, False]
    table = _trivium(platform, root, "status", "--json").stdout
    assert {json.loads(line)["feature"]: json.loads(line)["stage"] for line in table.splitlines()}[
        FEATURE
    ] == "ga"
    assert (root / "features/flags.json").read_bytes() == tracked
