"""`make drill` itself, with the faults that no other test has: nothing hangs, nothing is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.platform
FAULTS = "postgres:black hole,disk:full"
QUICK = ["--fault-s", "2", "--usage-s", "1", "--no-flag-server"]


def test_a_short_drill_loses_nothing_and_says_what_became_of_the_requests(root: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "scripts/drill.py",
            "--only",
            FAULTS,
            "--fault-s",
            "2",
            "--usage-s",
            "1",
            "--no-flag-server",
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ postgres"))
    cells = [cell.strip() for cell in row.strip("│ \n").split("│")]
    answered, degraded, refused, failed, late, hung, lost = (int(cell) for cell in cells[2:9])
    assert answered > 0, row
    assert degraded > 0, row  # stored results are in the database
    assert refused + failed + late + hung + lost == 0, row
