"""`trivium drift`, on a database of its own."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from support.drifting import Traffic, store
from trivium.cli.main import app
from trivium.features import find_feature
from trivium.store.engine import Database, migrate

REFERENCE, WINDOW = 200, 60
NAME = "ticket-summary"


@pytest.fixture
def database_url(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copytree(root / "features" / NAME, tmp_path / "features" / NAME)
    with (tmp_path / "features" / NAME / "feature.yaml").open("a") as manifest:
        manifest.write(f"drift: {{reference: {REFERENCE}, window: {WINDOW}}}\n")
    url = f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}"
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", url)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    return url


def _texts(count: int, seed: int, **changes: Any) -> list[str]:
    drawn, _ = Traffic(**changes).draw(count, np.random.default_rng(seed))
    return [one.input["text"] for one in drawn if one.input]


def _serve(url: str, folder: Path, texts: list[str], start: float) -> None:
    async def fill() -> None:
        database = Database(url)
        await migrate(database)
        feature = find_feature(folder / "features", NAME)
        await store(database, feature, texts, start=start, output=lambda text: {"summary": text[:40]})
        await database.close()

    asyncio.run(fill())


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, ["drift", NAME, *words])


def test_quiet_then_loud_then_the_new_normal(database_url: str, tmp_path: Path) -> None:
    now = time.time() - 10_000
    early = _run()
    assert early.exit_code == 2, early.output
    assert "no reference yet: 0 of the 200 inferences of llm-v1" in early.output
    _serve(database_url, tmp_path, _texts(REFERENCE + 30, 1), now)
    few = _run()
    assert few.exit_code == 2
    assert "nothing to compare yet: 30 inferences" in few.output
    _serve(database_url, tmp_path, _texts(WINDOW, 2), now + 1_000)
    page, data = tmp_path / "drift.html", tmp_path / "drift.json"
    quiet = _run("--html", str(page), "--json", str(data))
    assert quiet.exit_code == 0, quiet.output
    for expected in ("60 inferences", "the first 200 inferences of the version", "output.summary.length"):
        assert expected in quiet.output
    assert "not compared: embedding: no variant of the feature has an edge model" in quiet.output
    assert "No drift was found" in page.read_text()
    assert json.loads(data.read_text())["drifted"] is False

    _serve(database_url, tmp_path, _texts(WINDOW, 3, words=15, rare=0.2), now + 2_000)
    loud = _run("--window", "60")
    assert loud.exit_code == 1, loud.output
    assert "median" in loud.output and "yes" in loud.output
    reset = _run("--reset-reference")
    assert reset.exit_code == 0, reset.output
    assert "the reference is now 200 inferences until" in reset.output
    assert _run().exit_code == 2, "what came before the new reference is not compared with it"


def test_a_file_is_a_reference(database_url: str, tmp_path: Path) -> None:
    _serve(database_url, tmp_path, _texts(WINDOW, 2), time.time() - 100)
    file = tmp_path / "known.jsonl"
    records = [{"input": {"text": text}, "expected": {"summary": text[:9]}} for text in _texts(REFERENCE, 1)]
    file.write_text("".join(json.dumps(one) + "\n" for one in records[: REFERENCE // 2]))
    with file.open("a") as more:
        more.writelines(json.dumps(one["input"]) + "\n" for one in records[REFERENCE // 2 :])
    done = _run("--reference", str(file))
    assert "known.jsonl" in done.output
    assert done.exit_code == 1, "all its summaries are short"
    for row in done.output.splitlines():
        if row.startswith("│") and "length" in row:
            assert ("yes" in row) == ("summary" in row)
    assert "output.summary.length: median 9 to 40" in done.output
    assert "not compared: fallback_rate: 0 values in the reference, under 50" in done.output
    assert _run().exit_code == 1, "it stays the reference"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reference", "nothing.jsonl"), "nothing.jsonl"),
        (("--reference", "few.jsonl"), "1 records with a field of ticket-summary (text, summary), under 50"),
        (("--reference", "few.jsonl", "--reset-reference"), "goes without --reference"),
        (("--window", "10"), "50"),
    ],
)
def test_what_is_wrong_is_told_and_is_no_drift(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.jsonl").write_text('{"text": "a"}\n{"other": 1}\n')
    done = _run(*words)
    assert done.exit_code == 2, done.output
    assert told in done.output
    other = CliRunner().invoke(app, ["drift", "ticket-sumary"])
    assert other.exit_code == 2 and "ticket-sumary" in other.output
