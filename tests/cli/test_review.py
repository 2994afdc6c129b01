"""`trivium review`: the queue, and the three verdicts, by options and in a terminal."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.corrections import say, store_answer, write_sort
from support.databases import make_sqlite
from support.platform import clean_environment
from trivium.cli.main import app
from trivium.domain.feedback import Kind
from trivium.domain.sameness import input_hash
from trivium.errors import InvalidRequest, NotFound, SchemaViolation
from trivium.store.corrections import CorrectionRepository
from trivium.store.engine import Database


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three inputs in dispute: of `one` most say b, of the others nobody has most."""
    write_sort(tmp_path / "features")
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    said = [
        ("one", "b"),
        ("one", "b"),
        ("One", "c"),
        ("two", "b"),
        ("two", "c"),
        ("three", "x"),
        ("three", "y"),
    ]

    async def fill() -> None:
        database = Database(await make_sqlite(tmp_path / "state" / "trivium.db"))
        for n, (text, label) in enumerate(said):
            made = await store_answer(database, text, "a", subject_id=f"u-\x1b[31m{n}")
            await say(database, made, Kind.CORRECTION, label)
        await database.close()

    asyncio.run(fill())
    return tmp_path


def _hash(text: str) -> str:
    return input_hash({"text": text})


def _run(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["review", "sort", *words], input=typed)


def _queued() -> dict[str, dict[str, Any]]:
    done = _run("--list", "--json")
    assert done.exit_code == 0, done.output
    return {one["input_hash"]: one for one in map(json.loads, done.stdout.splitlines())}


def _verdicts(folder: Path) -> dict[str, tuple[str, Any, str]]:
    async def read() -> Any:
        database = Database(f"sqlite+aiosqlite:///{folder / 'state' / 'trivium.db'}")
        found = await CorrectionRepository(database).verdicts("sort")
        await database.close()
        return found

    found = asyncio.run(read())
    return {one.input_hash: (one.verdict, one.output, one.decided_by) for one in found.values()}


def test_the_queue_says_who_says_what_how_often(folder: Path) -> None:
    queued = _queued()
    assert queued.keys() == {_hash("one"), _hash("two"), _hash("three")}
    assert next(iter(queued)) == _hash("one")  # of which most was said
    values = [(one["value"], one["output"], one["subjects"]) for one in queued[_hash("one")]["values"]]
    assert values == [(1, {"label": "b"}, 2), (2, {"label": "c"}, 1)]
    shown = _run("--list").output
    assert '{"label": "b"}  2 subject(s)' in shown
    assert 'answered {"label": "a"} by edge-v1/v1' in shown
    assert "\x1b" not in shown


def test_each_verdict_takes_an_input_off_the_queue_and_into_the_dataset(folder: Path) -> None:
    assert _run("--accept", _hash("one")[:8], "--by", "ann").exit_code == 0
    amended = _run("--amend", _hash("two"), "--output", '{"label": "z"}', "--by", "ann")
    assert amended.exit_code == 0, amended.output
    assert _run("--drop", _hash("three"), "--reason", "spam", "--by", "ann").exit_code == 0
    assert _queued() == {}
    assert "nothing is queued" in _run("--list").output
    assert _verdicts(folder) == {
        _hash("one"): ("accept", {"label": "b"}, "ann"),
        _hash("two"): ("amend", {"label": "z"}, "ann"),
        _hash("three"): ("drop", None, "ann"),
    }
    built = CliRunner().invoke(app, ["dataset", "build", "sort", "--eval-share", "0"])
    assert built.exit_code == 0, built.output
    rows = map(json.loads, (folder / "state/datasets/sort/1/train.jsonl").read_text().splitlines())
    assert {row["text"].lower(): row["label"] for row in rows} == {"one": "b", "two": "z"}


def test_a_value_can_be_named_and_must_be_where_none_has_most(folder: Path) -> None:
    assert isinstance(_run("--accept", _hash("two")).exception, InvalidRequest)
    assert isinstance(_run("--accept", _hash("two"), "--value", "3").exception, InvalidRequest)
    assert _run("--accept", _hash("one"), "--value", "2").exit_code == 0
    assert _verdicts(folder)[_hash("one")][1] == {"label": "c"}


def test_a_wrong_use_is_told_and_stores_nothing(folder: Path) -> None:
    for words, told in (
        (["--accept", "a", "--drop", "b"], "give one of"),
        (["--list", "--accept", _hash("one")], "give one of"),
        (["--json"], "goes with --list"),
        (["--value", "1"], "goes with --accept"),
        (["--amend", _hash("one")], "go together"),
        (["--drop", _hash("one")], "say why"),
        (["--drop", _hash("one"), "--reason", " "], "say why"),
        (["--amend", _hash("one"), "--output", "{label"], "not JSON"),
        (["--amend", _hash("one"), "--output", "[1]"], "not an object"),
    ):
        done = _run(*words)
        assert done.exit_code == 2 and told in done.output, (words, done.output)
    for prefix in ("0" * 32, _hash("one")[:5], ""):
        assert isinstance(_run("--accept", prefix).exception, NotFound)
    wrong = _run("--amend", _hash("one"), "--output", '{"words": "z"}').exception
    assert isinstance(wrong, SchemaViolation) and "'words'" in wrong.detail
    assert _verdicts(folder) == {}


def test_the_terminal_asks_until_it_understands(folder: Path) -> None:
    first = list(_queued())
    typed = ["9", "what", "a", "{", "a", '{"label": 4}', "a", '{"label": "z"}', "d", "spam", "q"]
    done = _run("--by", "ann", typed="\n".join(typed) + "\n")
    assert done.exit_code == 0, done.output
    assert "'9' is none of them" in done.output and "not JSON" in done.output
    assert "1 left; what was decided is stored" in done.output
    assert _verdicts(folder) == {first[0]: ("amend", {"label": "z"}, "ann"), first[1]: ("drop", None, "ann")}
    skipped = _run(typed="s\n")
    assert "1 left" in skipped.output
    assert "0 left" in _run(typed="1\n").output
    assert "nothing is queued" in _run().output


def test_ctrl_c_loses_nothing(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = clean_environment() | {
        "TRIVIUM_STATE_DIR": str(folder / "state"),
        "TRIVIUM_FEATURES_DIR": str(folder / "features"),
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "trivium.cli.main", "review", "sort", "--by", "ann"],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        _until(ours, "1 of 3", "[q]uit")
        os.write(ours, b"1\n")
        _until(ours, "2 of 3", "[q]uit")
        process.send_signal(signal.SIGINT)
        _until(ours, "2 left; what was decided is stored")
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(ours)
    assert _verdicts(folder) == {_hash("one"): ("accept", {"label": "b"}, "ann")}


def _until(terminal: int, *texts: str) -> None:
    """Reads until every text has been shown, one after the other."""
    shown, end = "", time.monotonic() + 60
    os.set_blocking(terminal, False)
    waiting = list(texts)
    while waiting:
        assert time.monotonic() < end, shown
        try:
            shown += os.read(terminal, 4096).decode()
        except BlockingIOError:
            time.sleep(0.02)
        while waiting and waiting[0] in shown:
            shown = shown.partition(waiting.pop(0))[2]
