"""Real messages, 2,000 of banking77, as the archive, on the running platform."""

import csv
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from support.platform import ROOT, RunningPlatform, clean_environment, free_offset

pytestmark = pytest.mark.platform
DATA = Path(os.environ.get("REAL_DATA_DIR", ROOT.parent / "shared" / "data"))
COUNT = 2_000
MESSAGES = DATA / "banking77" / "train.csv"


def _trivium(platform: RunningPlatform, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trivium.cli.main", *words],
        cwd=ROOT,
        env=clean_environment()
        | {"TRIVIUM_STATE_DIR": str(platform.state_dir), "TRIVIUM_PORT_OFFSET": str(platform.offset)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    not MESSAGES.exists(), reason=f"no {MESSAGES}; set REAL_DATA_DIR to the folder of banking77"
)
def test_every_real_message_gets_its_five_most_similar(tmp_path: Path) -> None:
    with MESSAGES.open(newline="") as file, (tmp_path / "messages.csv").open("w", newline="") as chosen:
        csv.writer(chosen).writerows(islice(csv.reader(file), COUNT + 1))
    platform = RunningPlatform(tmp_path / "state", free_offset()).start()
    try:
        said = _trivium(
            platform,
            *("data", "import", str(tmp_path / "messages.csv")),
            *("--feature", "similar-tickets", "--as", "archive"),
        )
        assert f"imported {COUNT} records" in said
        stale = platform.infer("similar-tickets", entity_key="T-0001")
        assert (stale["stale"], stale["stale_reason"]) == (True, "input")
        _trivium(platform, "precompute", "similar-tickets")
        rows = [1, 77, 1_000, COUNT]
        for row in rows:
            answer = platform.infer("similar-tickets", entity_key=f"row-{row:07d}")
            assert (answer["degraded"], answer["stale"]) == (False, False)
            similar = answer["output"]["similar"]
            assert len({s["entity_key"] for s in similar}) == 5
            assert f"row-{row:07d}" not in {s["entity_key"] for s in similar}
            assert similar[0]["score"] > 0.6
        missing = platform.infer("similar-tickets", entity_key=f"row-{COUNT + 1:07d}")
        assert (missing["degraded"], missing["fallback_reason"]) == (True, "entity_unknown")
        text = str(platform.call("/metrics", service="worker").body)
        assert "trivium_results_stored_total" in text
    finally:
        platform.stop()
