"""The Dockerfiles, read, and their build stages run in a folder instead of a container."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy/docker"
NAMES = ("gateway", "batch-worker", "edge-model", "cli", "local-llm")
BUILD_S = 600


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile, on one line."""

    word: str
    text: str


@dataclass(frozen=True)
class Tree:
    """What the final stage of an image adds to its base.

    Attributes:
        venv: stands for /opt/trivium.
        app: stands for /app.
    """

    venv: Path
    app: Path

    @property
    def size_mb(self) -> float:
        """Of all its files, in 10⁶ bytes."""
        files = (path for top in (self.venv, self.app) for path in top.rglob("*"))
        return sum(p.stat().st_size for p in files if p.is_file() and not p.is_symlink()) / 1e6


def budgets_mb() -> dict[str, int]:
    """How large each image may be without its base, in 10⁶ bytes, as docs/images.md says."""
    rows = re.findall(
        r"^\| `([a-z-]+)` \|.*\| (\d+) MB \|$", (ROOT / "docs/images.md").read_text("utf-8"), re.MULTILINE
    )
    return {name: int(budget) for name, budget in rows}


def stages(name: str) -> list[list[Step]]:
    """The instructions of each stage, its FROM first; what stands before any stage is left out."""
    text = (DOCKER / f"{name}.Dockerfile").read_text("utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found: list[list[Step]] = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if word and found:
            found[-1].append(Step(word, rest.strip()))
    return found


def build_tree(name: str, folder: Path) -> Tree:
    """Runs the build stage of an image, and copies what its final stage copies.

    Raises:
        RuntimeError: a step failed; with the step and what it wrote.
    """
    build, final = stages(name)
    places = {"/build": folder / "build", "/opt/trivium": folder / "venv"}
    places["/build"].mkdir(parents=True)
    (folder / "app").mkdir()
    for step in build:
        if step.word == "COPY":
            _copy(step.text, places["/build"])
        if step.word == "RUN":
            _run(step.text, places, folder)
    for step in final:
        if step.word == "COPY" and not step.text.startswith("--from=build"):
            _copy(step.text, folder / "app")
    return Tree(folder / "venv", folder / "app")


def _copy(text: str, into: Path) -> None:
    *sources, target = text.split()
    for source in sources:
        path = ROOT / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(path, into / target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(path, into / target)


def _run(text: str, places: dict[str, Path], folder: Path) -> None:
    """One step, with the folder's paths for the container's and a base environment of its own."""
    base = folder / "base"
    if not base.exists():
        _call([sys.executable, "-m", "venv", str(base)], folder, text)
    for path, own in places.items():
        text = re.sub(rf"(?<![\w/]){path}(?![\w])", str(own), text)
    path_value = f"{base / 'bin'}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path_value, "UV_LINK_MODE": "copy"}
    env.pop("VIRTUAL_ENV", None)
    _call(["sh", "-ec", text], places["/build"], text, env)


def _call(words: list[str], cwd: Path, shown: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        raise RuntimeError(f"{shown}\n{done.stdout}{done.stderr}")
