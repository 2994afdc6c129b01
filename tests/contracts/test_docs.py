"""Documentation and code say the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trivium.cli.main import app
from trivium.settings import Settings

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_the_generated_documents_are_up_to_date(root: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(root / 'scripts')!r})\n"
        "import json, reference\n"
        "print(json.dumps(reference.build()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    import json

    for path, text in json.loads(done.stdout).items():
        assert (root / "docs" / path).read_text() == text, f"docs/{path} is out of date: make docs"


def test_every_link_in_the_documents_leads_somewhere(root: Path) -> None:
    for document in (root / "README.md", *root.glob("docs/**/*.md")):
        for target in LINK.findall(document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_every_make_target_in_the_documents_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for document in (root / "README.md", root / "CHANGELOG.md", *root.glob("docs/**/*.md")):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, document


def test_make_help_lists_every_target(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == targets


def test_every_command_in_the_documents_exists(root: Path) -> None:
    from typer.main import get_command

    command = get_command(app)
    for document in (root / "README.md", *root.glob("docs/**/*.md")):
        for words in re.findall(
            r"^(?:\.venv/bin/)?trivium ([a-z][a-z -]*)", document.read_text(), re.MULTILINE
        ):
            found: object = command
            for word in words.split():
                commands = getattr(found, "commands", None)
                if commands is None:
                    break
                assert word in commands, f"{document}: trivium {words}"
                found = commands[word]


def test_every_setting_says_what_it_is() -> None:
    from batch_worker.settings import WorkerSettings
    from edge_model.settings import EdgeSettings
    from gateway.settings import GatewaySettings

    for kind in (Settings, GatewaySettings, WorkerSettings, EdgeSettings):
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"


@pytest.mark.parametrize(
    "pattern", [r"(--|_)(extra-)?index-url", r"find-links +http", r"https?://[^ ]*/simple"]
)
def test_no_address_of_a_package_registry_is_kept(root: Path, pattern: str) -> None:
    found = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", ".", ":!tests/contracts/test_docs.py"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
