"""Every threat of docs/security.md has a test, and every test that it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(text: str) -> list[str]:
    """The rows of all tables below the heading `Threats`."""
    threats = text.partition("\n## Threats\n")[2].partition("\n## ")[0]
    lines = [line for line in threats.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith(("| ---", "| threat |"))]


@cache
def _tests_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def faults(text: str) -> list[str]:
    """Rows that name no test, and tests that are not there."""
    found = [f"names no test: {row}" for row in rows(text) if not REFERENCE.search(row)]
    for path, name in REFERENCE.findall(text):
        if not (ROOT / path).is_file() or name not in _tests_in(path):
            found.append(f"is not there: {path}::{name}")
    return found


def test_every_threat_is_shown_by_a_test_that_is_there() -> None:
    text = (ROOT / "docs/security.md").read_text()
    assert len(rows(text)) > 50
    assert not faults(text)


def test_a_row_without_one_and_one_that_is_gone_are_noticed() -> None:
    text = "\n## Threats\n| threat | what holds it | shown by |\n| --- | --- | --- |\n"
    text += "| a | b | hope |\n| a | b | `tests/security/test_threats.py::test_of_another_name` |\n"
    assert len(faults(text)) == 2


def test_every_attack_has_its_row() -> None:
    named = {name for _, name in REFERENCE.findall((ROOT / "docs/security.md").read_text())}
    told = (ROOT / "docs/security.md").read_text()
    for path in sorted(ROOT.glob("tests/security/test_*.py")):
        name = str(path.relative_to(ROOT))
        if name != "tests/security/test_threats.py":
            assert any(one in named for one in _tests_in(name)), name
            assert name in told
