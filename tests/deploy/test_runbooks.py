"""Runbooks name only what there is: alerts, commands, metrics, log events, settings, endpoints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from support.alerts import ALERTS, RUNBOOKS, schema_with_records
from support.promql import check_labels
from trivium.cli.main import app

PAGES = sorted(RUNBOOKS.glob("*.md"))
OF_ALERTS = [page for page in PAGES if page.stem not in ("README", "model-degradation")]
SECTIONS = ("For users", "First look", "Mitigate", "Escalate", "It is over")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_COMMAND = re.compile(r"\btrivium ((?:[a-z-]+ )*[a-z-]+)((?: [^`\n|]*)?)")
_ENDPOINT = re.compile(r"(?<![\w.])/v[12]/[\w/<>:{}-]+")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def _code(text: str) -> list[str]:
    """Lines of blocks of code, and what stands in backticks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + inline


def test_every_page_belongs_to_an_alert_and_the_index_has_all() -> None:
    linked = {Path(rule.annotations["runbook"]).name for rule in ALERTS}
    assert {page.name for page in OF_ALERTS} == linked
    index = (RUNBOOKS / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\]\([\w-]+\.md\) \| ([a-z, ]+) \|", index, re.MULTILINE))
    severities: dict[str, set[str]] = {}
    for rule in ALERTS:
        severities.setdefault(rule.alert, set()).add(rule.severity)
    assert {name: set(told.split(", ")) for name, told in rows.items()} == severities
    assert "(model-degradation.md)" in index


@pytest.mark.parametrize("page", OF_ALERTS, ids=lambda page: page.stem)
def test_every_page_answers_the_same_questions(page: Path) -> None:
    text = page.read_text()
    alert = "".join(part.capitalize() for part in page.stem.split("-"))
    assert text.startswith(f"# {alert}\n")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    assert len(text.splitlines()) < 80, "nobody reads that at night"
    for section in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert section.strip()


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pages
def test_every_command_and_option_exists(page: Path) -> None:
    for line in _code(page.read_text()):
        for words, rest in _COMMAND.findall(line):
            if f"trivium {words}" == line and words == "cli":
                continue
            _check_command(words, rest)


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    _check_command("rollout", ' <feature> --roll-back --reason "why"')
    for words, rest in (("rolout", ""), ("rollout", " <feature> --roll-bak"), ("db upgrad", "")):
        with pytest.raises(AssertionError):
            _check_command(words, rest)


def _check_command(words: str, rest: str) -> None:
    found: Any = get_command(app)
    for word in words.split():
        commands = getattr(found, "commands", None)
        if commands is None:
            break
        assert word in commands, f"trivium {words}"
        found = commands[word]
    options = {name for one in found.params for name in one.opts}
    for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
        assert option in options, f"trivium {words} {option}"


@pages
def test_every_expression_asks_for_what_is_exported_or_recorded(page: Path) -> None:
    known, _ = schema_with_records()
    text = page.read_text()
    for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            check_labels(line, known)
    named = set(re.findall(r"`(trivium[_:][\w:]+)[`{]", text))
    parts = {f"{name}_{part}" for name in known for part in ("sum", "count")}
    assert named <= known.keys() | parts, sorted(named - known.keys())


@pages
def test_every_log_event_and_setting_is_there(page: Path, root: Path) -> None:
    text = page.read_text()
    code = "".join(
        path.read_text()
        for folder in ("shared/trivium", "services")
        for path in (root / folder).rglob("*.py")
        if "training" not in path.parts
    )
    for group in re.findall(r'"event":"([\w()|]+)"', text):
        for event in _alternatives(group):
            assert f'"{event}"' in code, event
    lower = code.lower()
    for setting in set(re.findall(r"\bTRIVIUM_([A-Z_]+)", text)) - {"API_KEY"}:
        assert re.search(rf"^    {setting.lower()}: ", lower, re.MULTILINE), f"TRIVIUM_{setting}"


def _alternatives(group: str) -> list[str]:
    """`a`, `(a|b)` and `prefix_(a|b)` as grep -E reads them."""
    prefix, _, rest = group.partition("(")
    return [prefix + one for one in rest.rstrip(")").split("|")] if rest else [prefix]


@pages
def test_every_endpoint_is_there(page: Path, root: Path) -> None:
    paths = [
        re.sub(r"\{[^}]*\}", "X", path)
        for name in ("gateway", "edge-model")
        for path in json.loads((root / f"docs/openapi/{name}.json").read_text())["paths"]
    ]
    for named in _ENDPOINT.findall(page.read_text()):
        assert re.sub(r"<[^>]*>", "X", named) in paths, named
