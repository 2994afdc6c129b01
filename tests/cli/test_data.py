"""`trivium data import`: every line is right, or nothing is imported."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trivium.cli.main import app
from trivium.errors import DatasetError, InvalidInput
from trivium.store.archive import ArchiveRepository
from trivium.store.engine import Database


@pytest.fixture
def state(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(root / "features", tmp_path / "features")
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def _import(*words: object) -> str:
    result = CliRunner().invoke(app, ["data", "import", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def _archive(state: Path) -> list[str]:
    async def read() -> list[str]:
        database = Database(f"sqlite+aiosqlite:///{state / 'state' / 'trivium.db'}")
        try:
            return await ArchiveRepository(database).keys("tickets")
        finally:
            await database.close()

    return asyncio.run(read())


def test_a_csv_with_other_columns_becomes_the_archive(state: Path) -> None:
    file = state / "mine.csv"
    file.write_text('no,message\n7,"hello, there"\n8,bye\n')
    said = _import(
        file, "--feature", "similar-tickets", "--as", "archive", "--text-field", "message", "--id-field", "no"
    )
    assert "imported 2 records" in said
    assert _archive(state) == ["7", "8"]


def test_a_second_import_replaces_and_append_adds(state: Path) -> None:
    for name, line in (("a", {"text": "x", "id": "1"}), ("b", {"text": "y", "id": "2"})):
        (state / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    common = ("--feature", "similar-tickets", "--as", "archive", "--id-field", "id")
    _import(state / "a.jsonl", *common)
    _import(state / "b.jsonl", *common)
    assert _archive(state) == ["2"]
    _import(state / "a.jsonl", *common, "--append")
    assert _archive(state) == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('text\nhello\n""\n', r"mine\.csv:3: no value for 'text'"),
        ("words\nhello\n", r"mine\.csv:2: no value for 'text'; it has words"),
        ("text\n", "no record"),
        ("text\nhello,extra\n", r"mine\.csv:2: more values than the header"),
    ],
)
def test_a_faulty_line_is_named_and_nothing_is_imported(state: Path, content: str, said: str) -> None:
    (state / "mine.csv").write_text(content)
    with pytest.raises(DatasetError, match=said):
        _import(state / "mine.csv", "--feature", "similar-tickets", "--as", "archive")
    assert not (state / "state" / "trivium.db").exists()


def test_an_id_that_stands_twice_is_named(state: Path) -> None:
    (state / "mine.csv").write_text("id,text\n1,a\n1,b\n")
    with pytest.raises(DatasetError, match="'1' stands twice"):
        _import(state / "mine.csv", "--feature", "similar-tickets", "--as", "archive", "--id-field", "id")


def test_a_labelled_file_becomes_a_dataset_in_the_features_folder(state: Path) -> None:
    (state / "mine.csv").write_text("text,label\nwhere is my card,card_arrival\n")
    _import(state / "mine.csv", "--feature", "ticket-triage", "--as", "dataset", "--name", "september")
    written = (state / "features/ticket-triage/evals/september.jsonl").read_text()
    assert json.loads(written) == {
        "id": "mine-00001",
        "input": {"text": "where is my card"},
        "expected": {"label": "card_arrival"},
    }


def test_a_case_that_the_feature_would_refuse_is_not_a_dataset(state: Path) -> None:
    (state / "mine.csv").write_text(f"text,label\n{'x' * 5000},card_arrival\n")
    with pytest.raises(InvalidInput, match=r"input\.text"):
        _import(state / "mine.csv", "--feature", "ticket-triage", "--as", "dataset")


def test_a_labelled_file_becomes_the_training_set(state: Path) -> None:
    (state / "mine.jsonl").write_text('{"m": "a", "l": "x"}\n')
    fields = ("--text-field", "m", "--label-field", "l")
    _import(state / "mine.jsonl", "--feature", "ticket-triage", "--as", "train", *fields)
    written = (state / "state/data/ticket-triage/train.jsonl").read_text()
    assert json.loads(written) == {"text": "a", "label": "x"}


def test_an_unknown_feature_is_told_from_those_there_are(state: Path) -> None:
    (state / "mine.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(Exception, match="ticket-triage"):
        _import(state / "mine.jsonl", "--feature", "nonsense", "--as", "archive")
