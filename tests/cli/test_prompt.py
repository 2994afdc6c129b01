"""`trivium prompt`: what is sent, of which version, from which commit."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trivium.cli import prompt
from trivium.errors import InvalidInput, InvalidRequest, NotFound
from trivium.llm.prompts import Prompt

TEXT = "Where is my card?"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not there")


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features of one's own, outside any repository."""
    made = tmp_path / "features"
    shutil.copytree(root / "features", made)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(made))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return made


@pytest.fixture
def repository(folder: Path) -> Path:
    _git(folder, "init", "--quiet")
    _commit(folder, "Sort tickets")
    return folder


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def _commit(folder: Path, subject: str) -> str:
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--no-verify", "--message", subject)
    return _git(folder, "log", "-1", "--format=%h")


def _run(*words: str) -> Result:
    return CliRunner().invoke(prompt.app, list(words))


def _shown(*words: str) -> str:
    done = _run(*words)
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_the_example_is_shown_turn_by_turn_with_its_version(folder: Path) -> None:
    shown = _shown("render", "ticket-triage")
    path = folder / "ticket-triage" / "prompts" / "triage.md"
    version = Prompt(path.read_text(), "").version
    assert re.search(r"^variant    llm-v1 [0-9a-f]{12}$", shown, re.MULTILINE)
    assert f"prompt     {path} {version}\n" in shown
    assert "variables  text: string\n" in shown
    assert "git        no commit known\n" in shown
    assert re.findall(r"^## (\w+)$", shown, re.MULTILINE) == ["system", *["user", "assistant"] * 3, "user"]


def test_an_input_is_taken_from_the_line_or_a_file(folder: Path, tmp_path: Path) -> None:
    given = json.dumps({"text": TEXT})
    file = tmp_path / "input.json"
    file.write_text(given)
    for words in (("--input", given), ("--input-file", str(file))):
        told = json.loads(_shown("render", "ticket-triage", *words, "--json"))
        assert told["input"] == {"text": TEXT}
        assert told["messages"][-1] == {"role": "user", "content": TEXT}
        assert told["variables"] == {"text": "string"}
        assert told["git"] is None


def test_a_variant_is_chosen_by_name(folder: Path) -> None:
    told = json.loads(_shown("render", "ticket-summary", "--variant", "openai-v1", "--json"))
    assert told["variant"] == "openai-v1"
    assert told["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (["ticket-triage", "--input", '{"text": 5}'], InvalidInput, 'input.text: 5 is not of type "string"'),
        (["ticket-triage", "--input", '{"txet": "x", "text": "y"}'], InvalidInput, "txet"),
        (["ticket-triage", "--input", "{text}"], InvalidRequest, "--input: not JSON"),
        (["ticket-triage", "--input", "[1]"], InvalidRequest, "--input: is [1], not an object"),
        (["ticket-triage", "--input", "{}", "--input-file", "x"], InvalidRequest, "give one of them"),
        (["ticket-triage", "--input-file", "/absent.json"], FileNotFoundError, "/absent.json"),
        (["ticket-triage", "--variant", "edge-v1"], NotFound, "'edge-v1' has no prompt; there are: llm-v1"),
        (["ticket-triage", "--variant", "llm-v9"], NotFound, "'llm-v9' is not there; there are: llm-v1"),
        (["similar-tickets"], NotFound, "No variant of similar-tickets has a prompt"),
        (["nothing"], NotFound, "There is no feature 'nothing'"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, words: list[str], kind: type[Exception], told: str) -> None:
    done = _run("render", *words)
    assert done.exit_code == 1
    assert isinstance(done.exception, kind)
    assert told in str(done.exception)


@needs_git
def test_the_commit_that_last_changed_the_prompt_is_told(repository: Path) -> None:
    first = _git(repository, "log", "-1", "--format=%h %cs %s")
    path = repository / "ticket-triage" / "prompts" / "triage.md"
    (repository / "ticket-triage" / "note.txt").write_text("of another file")
    _commit(repository, "A note")
    assert f"git        {first}\n" in _shown("render", "ticket-triage")
    path.write_text(path.read_text().replace("You sort", "You always sort"))
    assert f"git        {first} (modified since)\n" in _shown("render", "ticket-triage")
    _git(repository, "add", ".")
    assert json.loads(_shown("render", "ticket-triage", "--json"))["git"]["modified_since"] is True
    second = _commit(repository, "Always sort")
    told = json.loads(_shown("render", "ticket-triage", "--json"))["git"]
    assert (told["commit"], told["subject"], told["modified_since"]) == (second, "Always sort", False)


@needs_git
def test_a_prompt_that_was_never_committed_has_no_commit(repository: Path) -> None:
    path = repository / "ticket-triage" / "prompts" / "triage.md"
    manifest = repository / "ticket-triage" / "feature.yaml"
    path.rename(path.with_name("new.md"))
    manifest.write_text(manifest.read_text().replace("prompts/triage.md", "prompts/new.md"))
    assert "git        no commit known\n" in _shown("render", "ticket-triage")


def test_without_git_the_prompt_is_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git        no commit known\n" in _shown("render", "ticket-triage")


@needs_git
def test_every_prompt_of_every_feature_is_listed(repository: Path) -> None:
    told = json.loads(_shown("list", "--json"))
    assert {(one["feature"], one["variant"]) for one in told} >= {
        ("ticket-summary", "llm-v1"),
        ("ticket-summary", "openai-v1"),
        ("ticket-triage", "llm-v1"),
    }
    assert all(one["git"]["subject"] == "Sort tickets" for one in told)
    shown = _shown("list")
    assert shown.count("variables  text: string\n") == shown.count("Sort tickets\n") == len(told)
