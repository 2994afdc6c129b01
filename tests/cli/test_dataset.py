"""`trivium dataset`, on a database and a state folder of its own."""

import asyncio
import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_model.training.data import read_examples
from support.corrections import say, store_answer, write_sort
from support.databases import make_sqlite
from trivium.cli import train as train_command
from trivium.cli.main import app
from trivium.domain.feedback import Kind
from trivium.errors import DatasetError, NotFound, TriviumError
from trivium.store.engine import Database


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sort(tmp_path / "features")
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    return tmp_path


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _fill(folder: Path, *said: tuple[str, str, str | None], first: int = 0) -> None:
    """(text, subject, the right label; None accepts the answer `a`)."""

    async def fill() -> None:
        database = Database(await make_sqlite(folder / "state" / "trivium.db"))
        for text, subject, label in said:
            made = await store_answer(database, text, "a", subject_id=subject)
            await say(database, made, Kind.CORRECTION if label else Kind.ACCEPTED, label)
        await database.close()

    asyncio.run(fill())


def _some(count: int) -> list[tuple[str, str, str | None]]:
    return [(f"question {n}", "u-1", "b" if n % 2 else None) for n in range(count)]


def test_a_version_is_built_shown_and_taken_by_the_trainer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(folder, *_some(40), ("disputed", "u-1", "b"), ("disputed", "u-2", "c"))
    done = _run("dataset", "build", "sort")
    assert done.exit_code == 0, done.output
    assert "to be reviewed: 1, by `trivium review sort`" in done.output
    (line,) = [line.strip() for line in done.output.splitlines() if line.strip().startswith("trivium train")]
    words = shlex.split(line)[3:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    data = Path(options["--data"])
    assert data == folder / "state/datasets/sort/1/train.jsonl"
    examples = read_examples(data, options["--text-field"], options["--label-field"])
    assert {example.label for example in examples} == {"a", "b"}
    card = json.loads(_run("dataset", "show", "sort", "--json").output)
    assert options["--credit"] == f"sort dataset 1, sha256 {card['content_sha256'][:12]}"
    assert len(examples) == sum(card["counts"]["train"].values()) == 40 - sum(card["counts"]["eval"].values())
    assert "1 disputed" in _run("dataset", "show", "sort", "1").output
    assert card["content_sha256"][:12] in _run("dataset", "list", "sort").output

    monkeypatch.setattr(train_command, "_check_installed", lambda: None)
    data.chmod(0o644)
    data.write_text("{}\n")
    with pytest.raises(DatasetError, match="a version is never changed"):
        train_command.train("sort", data)


def test_without_news_that_is_said_and_nothing_is_written(folder: Path) -> None:
    assert "nothing to build from yet" in _run("dataset", "build", "sort").output
    _fill(folder, *_some(10))
    assert _run("dataset", "build", "sort").exit_code == 0
    again = _run("dataset", "build", "sort")
    assert again.exit_code == 0
    assert "there is no news: it would be version 1" in again.output
    assert not (folder / "state/datasets/sort/2").exists()
    _fill(folder, ("another", "u-1", "c"))
    assert "from version 1" in _run("dataset", "build", "sort").output


def test_options_reach_the_version(folder: Path) -> None:
    _fill(folder, *_some(10), ("both say so", "u-1", "b"), ("both say so", "u-2", "b"))
    base = folder / "base.csv"
    base.write_text("message,intent\nolder,z\nolder still,z\noldest,z\n")
    out = folder / "elsewhere"
    done = _run(
        *("dataset", "build", "sort", "--min-agree", "2", "--eval-share", "0", "--out", str(out)),
        *("--with", str(base), "--text-field", "message", "--label-field", "intent"),
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (out / "sort/1/train.jsonl").read_text().splitlines()]
    assert {(row["text"], row["label"]) for row in rows} == {
        ("both say so", "b"),
        ("older", "z"),
        ("older still", "z"),
        ("oldest", "z"),
    }
    late = _run("dataset", "build", "sort", "--since", "2100-01-01", "--out", str(out))
    assert "nothing to build from yet" in late.output


def test_what_is_not_there_is_told(folder: Path) -> None:
    assert isinstance(_run("dataset", "build", "nonsense").exception, NotFound)
    assert isinstance(_run("dataset", "show", "sort").exception, NotFound)
    told = _run("dataset", "build", "sort", "--with", str(folder / "no.csv")).exception
    assert isinstance(told, TriviumError) and "no.csv" in told.detail
    assert _run("dataset", "build", "sort", "--eval-share", "1.5").exit_code == 2
