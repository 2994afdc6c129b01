"""What comes from others, pinned by hash and under licences that we can live with; and no secrets of ours."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

SHIPPED = ("gateway", "batch-worker", "edge-model", "evals", "otel", "load", "local")
"""Extras whose packages are in images and installations; not the trainer's, not the developers'."""
# As the packages write them.
FINE = {
    *("0bsd", "apache-2.0", "apache software license", "bsd license", "bsd-2-clause", "bsd-3-clause"),
    *("3-clause bsd license", "cc0-1.0", "isc", "isc license (iscl)", "mit", "mit license", "mit-cmu"),
    *("mozilla public license 2.0 (mpl 2.0)", "mpl-2.0", "psf-2.0", "python software foundation license"),
    "zlib",
}
# Their metadata name no licence; their LICENSE files do.
KNOWN = {"prometheus-fastapi-instrumentator": "isc"}
UNWANTED = {"llm", "llama-cpp-python"}
"""Never installed, by the override in pyproject.toml."""


def _lock(root: Path) -> list[str]:
    """The requirements of the lock, each in one line."""
    text = (root / "requirements.lock").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement).lower()


def test_everything_in_the_lock_is_pinned_by_version_and_hash(root: Path) -> None:
    locked = _lock(root)
    assert len(locked) > 100
    for line in locked:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ;]+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+$", line), (
            line[:200]
        )


def test_all_that_we_need_is_in_the_lock(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        needed += requirements if extra != "train" else []
    locked = {_name(line.partition("==")[0]) for line in _lock(root)}
    assert {_name(Requirement(one).name) for one in needed} <= locked


def test_the_lock_is_what_is_installed(root: Path) -> None:
    setup = (root / "scripts/setup").read_text()
    assert "requirements.lock" in setup
    assert "--require-hashes" in setup or "--verify-hashes" in setup or "pip sync" in setup


def _shipped() -> set[str]:
    """The distributions that the extras bring, with all that they need."""
    seen: dict[str, set[str]] = {}
    waiting = [("trivium", frozenset(SHIPPED))]
    while waiting:
        name, extras = waiting.pop()
        if name in UNWANTED or (name in seen and extras <= seen[name]):
            continue
        seen.setdefault(name, set()).update(extras)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            asked = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(needed.marker.evaluate(one) for one in asked):
                waiting.append((_name(needed.name), frozenset(needed.extras)))
    return seen.keys() - {"trivium"}


def _licences(name: str) -> list[str]:
    told: Any = importlib.metadata.metadata(name)
    kinds = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or () if c.startswith("License")]
    stated = told.get("License-Expression") or "; ".join(kinds) or (told.get("License") or "")[:60]
    if name in KNOWN:
        return [KNOWN[name]]
    return [one.strip(" ()").lower() for one in re.split(r" AND | OR |; (?!.*\))", stated)]


def test_what_ships_has_a_licence_that_we_can_live_with() -> None:
    shipped = _shipped()
    assert {"fastapi", "sqlalchemy", "onnxruntime", "redis", "xllamacpp"} <= shipped
    unknown = {name: _licences(name) for name in shipped if not set(_licences(name)) <= FINE}
    # "(MPL 2.0)" and "(ISCL)" lose their bracket to the split.
    unknown = {n: told for n, told in unknown.items() if not {one + ")" for one in told} & FINE}
    assert not unknown


def test_the_audit_says_what_it_did_and_fails_on_advisories_alone(root: Path, tmp_path: Path) -> None:
    shutil.copytree(
        root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("peers", "__pycache__")
    )
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    fake = tmp_path / ".venv/bin/pip-audit"
    for says, status, expected in (
        ("requests.exceptions.ConnectionError: Max retries exceeded", 1, 0),
        ("Found 1 known vulnerability in 1 package", 1, 1),
        ("No known vulnerabilities found", 0, 0),
    ):
        fake.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
        fake.chmod(0o755)
        done = subprocess.run(
            [tmp_path / "scripts/audit-dependencies"], capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done
        assert says in done.stdout
        assert ("not audited" in done.stdout) is ("Error" in says)


def _scan(root: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(root / "scripts/scan_secrets.py"), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_no_file_holds_a_secret(root: Path) -> None:
    done = _scan(root)
    assert done.returncode == 0, done.stderr


PLANTED = [
    ("settings.py", 'openai_api_key = "{key}"\n', "sk-" + "proj4Jq8vTz1Lw6Xc9Bn3Mk7"),
    ("deploy.yaml", "password: {key}\n", "hV7!kq" + "Zp2x9Lw4"),
    ("README.md", "export AWS_KEY={key}\n", "AKIA" + "QYLPMN5HHHFPZAM2"),
    ("url.txt", "postgresql://app:{key}@db.example/app\n", "Xk7qWv" + "93mTz"),
    ("id_rsa", "{key}\n", "-----BEGIN RSA " + "PRIVATE KEY-----"),
]


@pytest.mark.parametrize(("name", "line", "key"), PLANTED)
def test_a_planted_secret_is_found(root: Path, tmp_path: Path, name: str, line: str, key: str) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "clean.txt").write_text("nothing\n")
    assert _scan(root, "--root", str(tmp_path)).returncode == 0
    (tmp_path / name).write_text("first\n" + line.format(key=key))
    done = _scan(root, "--root", str(tmp_path))
    assert done.returncode == 1
    assert f"{name}:2: " in done.stderr
    assert _scan(root, "--root", str(tmp_path), "--update").returncode == 0
    assert _scan(root, "--root", str(tmp_path)).returncode == 0
    assert key not in (tmp_path / ".secrets.baseline").read_text()


def test_the_baseline_names_only_files_that_are_there(root: Path) -> None:
    import json

    known = json.loads((root / ".secrets.baseline").read_text())
    assert not [name for name in known if not (root / name).is_file() or name.startswith("/")]
