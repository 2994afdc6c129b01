"""Models from a registry into a folder, by the digest of their card."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

MODEL = "ticket-triage/2"


@pytest.fixture
def registry(root: Path, tmp_path: Path) -> Iterator[str]:
    """The models of the checkout, behind HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root / "models")))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _fetch(source: str, target: Path, *models: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_model.fetch", f"--from={source}", f"--to={target}", *models]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_model_comes_whole_and_a_second_time_again(
    root: Path, tmp_path: Path, registry: str, kind: str
) -> None:
    source = root / "models" / MODEL
    url = str(root / "models") if kind == "folder" else registry
    for _ in range(2):
        done = _fetch(url, tmp_path, f"{MODEL}@sha256:{_digest(source)}")
        assert done.returncode == 0, done.stderr
        names = {path.name for path in (tmp_path / MODEL).iterdir()}
        assert names == {"model.json", "model.onnx", "tokenizer.json"}
        assert (tmp_path / MODEL / "model.onnx").read_bytes() == (source / "model.onnx").read_bytes()


def test_a_card_of_another_digest_and_a_changed_file_are_refused(root: Path, tmp_path: Path) -> None:
    wrong = _fetch(str(root / "models"), tmp_path / "a", f"{MODEL}@sha256:{'0' * 64}")
    assert wrong.returncode == 1
    assert "has the SHA-256" in wrong.stderr
    copy = tmp_path / "registry" / MODEL
    copy.mkdir(parents=True)
    for path in (root / "models" / MODEL).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "tokenizer.json").write_bytes(b"{}")
    changed = _fetch(str(tmp_path / "registry"), tmp_path / "b", f"{MODEL}@sha256:{_digest(copy)}")
    assert changed.returncode == 1
    assert "tokenizer.json: its SHA-256 is not the one on the card" in changed.stderr
    assert not list(tmp_path.glob("[ab]/ticket-triage/*"))


@pytest.mark.parametrize(
    "model", ["ticket-triage", "ticket-triage/2", "../x/2@sha256:" + "0" * 64, "a/..@sha256:" + "0" * 64]
)
def test_what_names_no_model_is_told(tmp_path: Path, model: str) -> None:
    done = _fetch(str(tmp_path), tmp_path, model)
    assert (done.returncode, "is not NAME/VERSION@sha256:DIGEST" in done.stderr) == (1, True)
