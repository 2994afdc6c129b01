import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trivium.errors import ConfigurationError
from trivium.features import load_catalogue
from trivium.flag_client import UnleashFlags
from trivium.flags import FlagSettings

SUBJECTS = [f"subject-{n}" for n in range(2000)]
# The refresh interval is 1 s; the rest is for a busy machine.
WITHIN = 4.0


def state(**rollouts: int) -> str:
    return json.dumps(
        {
            "version": 1,
            "features": [
                {
                    "name": name.replace("_", "-"),
                    "enabled": True,
                    "strategies": [
                        {
                            "name": "flexibleRollout",
                            "parameters": {"rollout": str(share), "stickiness": "userId", "groupId": name},
                        }
                    ],
                }
                for name, share in rollouts.items()
            ],
        }
    )


@asynccontextmanager
async def flags_of(folder: Path, flags_file: Path | None) -> AsyncIterator[UnleashFlags]:
    flags = UnleashFlags(FlagSettings(state_dir=folder, flags_file=flags_file, flags_refresh_s=1))
    await flags.start()
    try:
        yield flags
    finally:
        await flags.stop()


async def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def those_in(flags: UnleashFlags, flag: str) -> set[str]:
    return {subject for subject in SUBJECTS if flags.is_enabled(flag, subject, {})}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "flags.json"
    made.write_text(state(summary=30))
    return made


async def test_a_file_lets_in_its_share_and_always_the_same_subjects(tmp_path: Path, file: Path) -> None:
    async with flags_of(tmp_path, file) as flags:
        inside = those_in(flags, "summary")
        assert 0.25 < len(inside) / len(SUBJECTS) < 0.35
        assert those_in(flags, "summary") == inside
    async with flags_of(tmp_path, file) as another_process:
        assert those_in(another_process, "summary") == inside


async def test_a_flag_that_the_file_does_not_name_is_off(tmp_path: Path, file: Path) -> None:
    async with flags_of(tmp_path, file) as flags:
        assert not flags.is_enabled("unknown", "subject-1", {})


async def test_a_constraint_sees_the_properties_of_the_subject(tmp_path: Path, file: Path) -> None:
    flag = json.loads(state(summary=100))
    constraint = {"contextName": "plan", "operator": "IN", "values": ["pro"]}
    flag["features"][0]["strategies"][0]["constraints"] = [constraint]
    file.write_text(json.dumps(flag))
    async with flags_of(tmp_path, file) as flags:
        assert flags.is_enabled("summary", "subject-1", {"plan": "pro"})
        assert not flags.is_enabled("summary", "subject-1", {"plan": "free"})
        assert not flags.is_enabled("summary", "subject-1", {})


async def test_a_change_of_the_file_is_seen_and_keeps_those_who_were_in(tmp_path: Path, file: Path) -> None:
    async with flags_of(tmp_path, file) as flags:
        before = those_in(flags, "summary")
        file.write_text(state(summary=60, triage=100))
        await eventually(lambda: flags.is_enabled("triage", "subject-1", {}))
        after = those_in(flags, "summary")
        assert 0.55 < len(after) / len(SUBJECTS) < 0.65
        assert before < after
        file.write_text(state(triage=0))
        await eventually(lambda: not those_in(flags, "summary") | those_in(flags, "triage"))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"version": 1,\n "features": [', ":2: not JSON"),
        (b'{"version": 1}', "no list 'features'"),
        (b"[]", "no list 'features'"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", ":1: not JSON"),
        (None, "No such file"),
        (b'{"version": 1, "features": [{"name": 1}]}', "Error loading features"),
    ],
)
async def test_a_file_that_breaks_changes_nothing_and_is_told_until_it_is_mended(
    tmp_path: Path,
    file: Path,
    broken: bytes | None,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with flags_of(tmp_path, file) as flags:
        before = those_in(flags, "summary")
        if broken is None:
            file.unlink()
        else:
            file.write_bytes(broken)
        told: list[str] = []

        def is_told() -> bool:
            told.append(capfd.readouterr().out)
            return reason in "".join(told) + caplog.text

        await eventually(is_told)
        assert those_in(flags, "summary") == before
        file.write_text(state(summary=100))
        await eventually(lambda: len(those_in(flags, "summary")) == len(SUBJECTS))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"{\n]", ":2: not JSON"),
        (b"{}", "no list 'features'"),
        (b'{"features": {}}', "no list 'features'"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_setting_and_path(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="TRIVIUM_FLAGS_FILE") as refused:
        UnleashFlags(FlagSettings(state_dir=tmp_path, flags_file=file))
    assert str(file) in refused.value.detail
    assert reason in refused.value.detail


async def test_with_neither_server_nor_file_every_flag_is_off_and_nothing_is_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with flags_of(tmp_path, None) as flags:
        await asyncio.sleep(1.5)
        assert not flags.is_enabled("summary", "subject-1", {})
    assert "Unleash" not in caplog.text


async def test_a_file_alone_leaves_no_state_on_disk_and_no_thread_behind(tmp_path: Path, file: Path) -> None:
    before = set(threading.enumerate())
    async with flags_of(tmp_path, file):
        await asyncio.sleep(1.5)
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")}
    assert left <= before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


async def test_the_example_file_puts_every_example_at_100_percent(tmp_path: Path, root: Path) -> None:
    file = root / "features/flags.json"
    named = {flag["name"] for flag in json.loads(file.read_text())["features"]}
    asked = {each.manifest.rollout.flag for each in load_catalogue(root / "features")}
    assert asked == named
    async with flags_of(tmp_path, file) as flags:
        for flag in asked:
            assert those_in(flags, flag) == set(SUBJECTS)
