"""Where prometheus and promtool are, and what promtool says."""

import fcntl
import functools
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP_S = 600


@functools.cache
def prometheus_folder() -> Path:
    """The folder with both; fetches them where they are not, one process at a time.

    Raises:
        RuntimeError: they are not there, and cannot be fetched; with the reason.
    """
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [ROOT / "scripts/setup-prometheus"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SETUP_S)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"scripts/setup-prometheus returned {done.returncode}")
    return Path(done.stdout.strip())


def needed_folder() -> Path:
    """The same for a test, which is skipped without them, and fails where CI must have them."""
    try:
        return prometheus_folder()
    except RuntimeError as lacking:
        if os.environ.get("CI"):
            pytest.fail(str(lacking))
        pytest.skip(str(lacking))


def promtool(*words: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs promtool in a folder; what it says is for the test to judge."""
    command = [needed_folder() / "promtool", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
