"""`trivium up` as a process: its end, its crash, and what it says when it cannot start."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.platform import ROOT, RunningPlatform, clean_environment, free_offset

pytestmark = pytest.mark.platform


@pytest.fixture
def other(tmp_path: Path) -> RunningPlatform:
    return RunningPlatform(tmp_path / "state", free_offset())


def _children(platform: RunningPlatform) -> list[psutil.Process]:
    assert platform.process
    return psutil.Process(platform.process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_order(other: RunningPlatform, number: int) -> None:
    other.start()
    children = _children(other)
    assert len(children) >= 5
    assert other.stop(number) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert "Trivium ends" in other.output.read_text()


def test_a_signal_during_the_start_leaves_no_process_behind(other: RunningPlatform) -> None:
    other.start(wait=False)
    other.wait_for("valkey")
    children = _children(other)
    other.stop()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_orphans_of_a_killed_supervisor_are_ended_by_the_next_start(other: RunningPlatform) -> None:
    other.start()
    key = other.key
    orphans = _children(other)
    assert other.process
    other.process.kill()
    other.process.wait()
    assert all(orphan.is_running() for orphan in orphans)
    other.start()
    try:
        assert not psutil.wait_procs(orphans, timeout=5)[1]
        assert "of a start that was killed" in other.output.read_text()
        assert other.key == key
        assert other.infer("similar-tickets", entity_key="T-0001")["degraded"] is False
    finally:
        other.stop()


def _refused(state_dir: Path, offset: int, *args: str, **env: str) -> str:
    """What a start prints that must fail with one line, without a trace."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "trivium.cli.main", "up", *args],
        cwd=ROOT,
        env=clean_environment()
        | {"TRIVIUM_STATE_DIR": str(state_dir), "TRIVIUM_PORT_OFFSET": str(offset)}
        | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert time.monotonic() - began < 30
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_second_start_says_what_to_set(platform: RunningPlatform) -> None:
    line = _refused(platform.state_dir, platform.offset)
    assert "runs already" in line
    assert "TRIVIUM_STATE_DIR" in line
    assert "TRIVIUM_PORT_OFFSET" in line


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    offset = free_offset()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 8081 + offset))
        taken.listen()
        line = _refused(tmp_path / "state", offset)
    assert f"port {8081 + offset} of the edge is taken" in line
    assert "TRIVIUM_PORT_OFFSET" in line


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = _refused(tmp_path / "file" / "state", free_offset())
    assert "cannot be written" in line
    assert "TRIVIUM_STATE_DIR" in line


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system to fill can only be mounted as root")
    try:
        line = _refused(small / "state", free_offset())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert "the disk has" in line
    assert "TRIVIUM_STATE_DIR" in line


def test_a_wrong_setting_is_named_with_its_value(tmp_path: Path) -> None:
    line = _refused(tmp_path / "state", 0, TRIVIUM_LOG_LEVEL="loud")
    assert "TRIVIUM_LOG_LEVEL" in line
    assert "loud" in line


def test_a_default_secret_refuses_to_start_in_production(tmp_path: Path) -> None:
    line = _refused(tmp_path / "state", 0, TRIVIUM_ENVIRONMENT="production")
    assert "TRIVIUM_SERVICE_KEY" in line


def test_faulty_manifests_are_told_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "features" / "broken"
    folder.mkdir(parents=True)
    (folder / "feature.yaml").write_text("feature: broken\n")
    done = subprocess.run(
        [sys.executable, "-m", "trivium.cli.main", "features", "check"],
        cwd=ROOT,
        env=clean_environment() | {"TRIVIUM_FEATURES_DIR": str(tmp_path / "features")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) > 5
    assert all(line.startswith(f"{folder}/feature.yaml:1: ") for line in lines)
    assert any("assessment: is missing" in line for line in lines)
