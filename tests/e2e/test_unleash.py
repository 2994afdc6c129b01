"""`trivium up --unleash-url`: a real server decides who gets the AI, and its loss changes nobody's arm."""

import time
from pathlib import Path

import pytest

from support.platform import RunningPlatform, free_offset
from support.unleash import Unleash

pytestmark = [pytest.mark.platform, pytest.mark.unleash]
WITHIN_S = 20


def _arms(platform: RunningPlatform, subjects: int = 40) -> list[str]:
    question = {"text": "How do I change my PIN?"}
    return [
        platform.infer("ticket-triage", input=question, subject={"id": f"s-{n}"})["arm"]
        for n in range(subjects)
    ]


def _wait_for(platform: RunningPlatform, arms: set[str]) -> list[str]:
    until = time.monotonic() + WITHIN_S
    while set(found := _arms(platform)) != arms:
        assert time.monotonic() < until, platform.shown()
        time.sleep(0.3)
    return found


def test_the_flag_server_decides_the_arm(unleash: Unleash, tmp_path: Path) -> None:
    unleash.create_flag("ticket-triage", 0)
    platform = RunningPlatform(
        tmp_path / "state",
        free_offset(),
        ["--unleash-url", unleash.url],
        {"TRIVIUM_UNLEASH_TOKEN": unleash.token, "TRIVIUM_FLAGS_REFRESH_S": "1"},
    )
    try:
        platform.start()
        _wait_for(platform, {"control"})
        answer = platform.infer("ticket-triage", input={"text": "How do I change my PIN?"})
        assert answer["output"] == {"label": "general-queue"}
        assert (answer["served_by"]["step"], answer["degraded"]) == ("static", False)
        unleash.set_rollout("ticket-triage", 50)
        _wait_for(platform, {"control", "treatment"})
        time.sleep(2)  # the first look may have fallen into the change
        assert _arms(platform) == _arms(platform)
        unleash.set_rollout("ticket-triage", 100)
        _wait_for(platform, {"treatment"})
        unleash.kill()
        time.sleep(2)
        with platform.without("gateway"):
            pass  # a new process starts while the server is away
        assert set(_arms(platform)) == {"treatment"}
    finally:
        platform.stop()
        unleash.kill()
        unleash.start()
