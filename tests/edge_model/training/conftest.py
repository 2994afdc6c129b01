"""A small sample of real messages, and the real trainer on it."""

import csv
import importlib.util
import os
from collections import Counter
from pathlib import Path

import pytest

from support.platform import ROOT

DATA = Path(os.environ.get("REAL_DATA_DIR", ROOT.parent / "shared" / "data"))
MESSAGES = DATA / "banking77" / "train.csv"
OUT_OF_SCOPE = DATA / "clinc150" / "out_of_scope.json"
INTENTS = ("age_limit", "atm_support", "exchange_rate")
EACH = 24


@pytest.fixture(scope="session")
def out_of_scope() -> Path:
    """200 messages about other things."""
    if not OUT_OF_SCOPE.exists():
        pytest.skip(f"no {OUT_OF_SCOPE}; set REAL_DATA_DIR to the folder of clinc150")
    return OUT_OF_SCOPE


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 messages of each of three intents of banking77."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed; the extra `train` brings it")
    if not MESSAGES.exists():
        pytest.skip(f"no {MESSAGES}; set REAL_DATA_DIR to the folder of banking77")
    seen: Counter[str] = Counter()
    path = tmp_path_factory.mktemp("sample") / "labelled.csv"
    with MESSAGES.open(encoding="utf-8", newline="") as source, path.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        for row in csv.DictReader(source):
            seen[row["category"]] += 1
            if row["category"] in INTENTS and seen[row["category"]] <= EACH:
                writer.writerow([row["text"], row["category"]])
    return path
