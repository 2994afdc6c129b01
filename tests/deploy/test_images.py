"""Dockerfiles and their locks, and what an image would hold, built and started without Docker."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.edge import free_port
from support.images import NAMES, ROOT, Step, Tree, budgets_mb, build_tree, stages

DOCKER = ROOT / "deploy/docker"
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", re.MULTILINE)
FOREIGN = {
    "gateway": {"onnxruntime", "torch", "matplotlib", "numpy", "pytest"},
    "batch-worker": {"onnxruntime", "torch", "matplotlib", "unleashclient", "pytest"},
    "edge-model": {"sqlalchemy", "arq", "redis", "aiohttp", "openai", "torch", "matplotlib", "pytest"},
    "cli": {"onnxruntime", "torch", "pytest"},
    "local-llm": {"sqlalchemy", "llm", "llama-cpp-python", "torch", "pytest"},
}
BUILD_TOOLS = {"pip", "setuptools", "uv", "hatchling", "wheel", "gcc"}


def _pins(path: Path) -> set[tuple[str, str]]:
    return set(PINNED.findall(path.read_text("utf-8")))


def _values(steps: list[Step], word: str) -> list[str]:
    return [step.text for step in steps if step.word == word]


def test_every_dockerfile_is_known() -> None:
    assert {path.name.removesuffix(".Dockerfile") for path in DOCKER.glob("*.Dockerfile")} == set(NAMES)
    assert set(budgets_mb()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, DOCKER / f"{name}.Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_final_stages_are_small_and_confined(name: str) -> None:
    build, final = stages(name)
    assert build[0].text == "${BASE_IMAGE} AS build" and final[0].text == "${BASE_IMAGE}"
    assert _values(final, "USER") == ["10001:10001"]
    assert _values(final, "WORKDIR") == ["/app"] and _values(final, "STOPSIGNAL") == ["SIGTERM"]
    for step in (*_values(final, "CMD"), *_values(final, "ENTRYPOINT")):
        assert all(isinstance(word, str) for word in json.loads(step))
    assert not _values(build + final, "ADD") and not _values(build + final, "ARG")
    told = " ".join(_values(build + final, "ENV"))
    assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*=", told)
    assert "TRIVIUM_ENVIRONMENT=production" in told
    assert not any("apt-get" in text or "pip install" in text for text in _values(final, "RUN"))
    kept = [text for text in _values(final, "COPY") if text.startswith("--from")]
    assert kept == ["--from=build /opt/trivium /opt/trivium"]


@pytest.mark.parametrize("name", NAMES)
def test_images_install_their_own_lock_with_hashes(name: str) -> None:
    ran = " ".join(_values(stages(name)[0], "RUN"))
    assert re.findall(r"-r (\S+)", ran) == ["build.txt", f"{name}.txt"]
    assert ran.count("--require-hashes") == 2


@pytest.mark.parametrize("name", [*NAMES, "build"])
def test_locks_are_parts_of_what_is_tested(name: str) -> None:
    path = DOCKER / "locks" / f"{name}.txt"
    text, pins = path.read_text("utf-8"), _pins(path)
    assert pins and pins <= _pins(ROOT / "requirements.lock")
    assert text.count("--hash=sha256:") > len(pins)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text)
    assert not FOREIGN.get(name, set()) & {package for package, _ in pins}
    if name != "build":
        assert not BUILD_TOOLS & {package for package, _ in pins}
    if name in ("gateway", "batch-worker", "edge-model"):
        assert {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= {one for one, _ in pins}


@pytest.mark.parametrize("name", ["gateway", "batch-worker", "edge-model"])
def test_chart_starts_what_images_start(name: str) -> None:
    chart = ROOT / "helm/trivium/templates"
    texts = "\n".join(path.read_text("utf-8") for path in chart.iterdir() if path.is_file())
    [command] = _values(stages(name)[1], "CMD")
    assert f"command: [{', '.join(json.loads(command))}]" in texts
    assert "runAsUser: 10001" in texts and "value: /var/lib/trivium" in texts
    [own] = [text for text in _values(stages(name)[1], "COPY") if not text.startswith("--from")]
    assert f'"/app/{own.split()[0]}"' in texts


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        source.removeprefix("./").split("/")[0]
        for name in NAMES
        for stage in stages(name)
        for text in _values(stage, "COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert {rule[1:] for rule in rules if rule.startswith("!") and "/" not in rule} == copied


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What the edge model's image would hold; `make images-check` builds the others too."""
    return build_tree("edge-model", tmp_path_factory.mktemp("edge-image"))


def test_no_build_tool_is_left(edge: Tree) -> None:
    found = {path.name for path in (edge.venv / "bin").iterdir()}
    found |= {path.name.split("-")[0] for path in edge.venv.glob("lib/python3*/site-packages/*.dist-info")}
    assert "trivium" in found and not found & BUILD_TOOLS


def test_the_image_is_within_its_budget(edge: Tree) -> None:
    assert 50 < edge.size_mb <= budgets_mb()["edge-model"]


def test_what_the_image_holds_answers_its_own_health_check(edge: Tree, tmp_path: Path) -> None:
    _, final = stages("edge-model")
    port = free_port()
    env = {
        "PATH": f"{edge.venv / 'bin'}:/usr/bin:/bin",
        "TRIVIUM_HOST": "127.0.0.1",
        "TRIVIUM_EDGE_PORT": str(port),
        "TRIVIUM_EDGE_GRPC_PORT": str(free_port()),
        "TRIVIUM_STATE_DIR": str(tmp_path),
        "TRIVIUM_ENVIRONMENT": "production",
    }
    python, words = edge.venv / "bin/python", json.loads(_values(final, "CMD")[0])[1:]
    refused = subprocess.run(
        [python, *words], cwd=edge.app, env=env, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode and "TRIVIUM_SERVICE_KEY is the development default" in refused.stderr
    check = json.loads(_values(final, "HEALTHCHECK")[0].split("CMD ", 1)[1])[1:]
    with subprocess.Popen(
        [python, *words],
        cwd=edge.app,
        env=env | {"TRIVIUM_SERVICE_KEY": "own"},  # pragma: allowlist secret
    ) as process:
        try:
            end = time.monotonic() + 60
            while subprocess.run([python, *check], env=env, capture_output=True, timeout=30).returncode:
                assert process.poll() is None and time.monotonic() < end
        finally:
            process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)
    gone = subprocess.run([python, *check], env=env, capture_output=True, timeout=30)
    assert gone.returncode
