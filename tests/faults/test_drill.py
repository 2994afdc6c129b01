"""`make drill` itself, with a fault that no other test has: nothing hangs, nothing is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.platform
FAULT = "disk:full"


def test_a_short_drill_loses_nothing_and_says_what_became_of_the_requests(root: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "scripts/drill.py",
            "--only",
            FAULT,
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
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ disk"))
    cells = [cell.strip() for cell in row.strip("│ \n").split("│")]
    answered, degraded, refused, failed, late, hung, lost = (int(cell) for cell in cells[2:9])
    # A step may be late on a busy machine, and its fallback answers then; that is what it is for.
    assert answered > 10 * (degraded + late), row
    assert refused + failed + hung + lost == 0, row
