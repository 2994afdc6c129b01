"""`trivium smoke` against a platform that runs: what is right passes, and what is wrong is told."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from support.edge import free_port
from support.platform import ROOT, RunningPlatform, clean_environment

pytestmark = pytest.mark.platform
WRONG = "trv_0123456789abcdef_a-key-that-nobody-made"  # pragma: allowlist secret


def smoke(url: str, key: str | None, *words: str, features: Path = ROOT / "features") -> tuple[int, str]:
    """Exit code and everything that it printed."""
    own = {"TRIVIUM_FEATURES_DIR": str(features)} | ({"TRIVIUM_API_KEY": key} if key else {})
    command = [sys.executable, "-m", "trivium.cli.main", "smoke", "--url", url, "--attempts", "1", *words]
    done = subprocess.run(
        command, env=clean_environment() | own, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert key is None or key not in said
    return done.returncode, said


def _only(folder: Path, name: str, instead_of: str) -> Path:
    """A folder with one feature of the checkout, under another name."""
    shutil.copytree(ROOT / "features" / instead_of, folder / name)
    manifest = folder / name / "feature.yaml"
    manifest.write_text(manifest.read_text().replace(f"feature: {instead_of}", f"feature: {name}", 1))
    return folder


@contextmanager
def _answering(body: bytes) -> Iterator[str]:
    """A server that says 200 and the same to everything."""

    class Same(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Same) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_feature_answers(platform: RunningPlatform) -> None:
    code, said = smoke(platform.url("gateway", "/"), platform.key)
    assert code == 0, said
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "✓ similar-tickets",
        "✓ ticket-summary",
        "✓ ticket-triage",
    ]
    assert "ticket-triage: treatment by edge-v1 (edge, ticket-triage/2)" in said


def test_a_wrong_key_is_told_and_not_shown(platform: RunningPlatform) -> None:
    code, said = smoke(platform.url("gateway", ""), WRONG)
    assert code == 1
    assert said.count("✗") == 3 and said.count("401: ") == 3


def test_no_key_is_told(platform: RunningPlatform) -> None:
    assert smoke(platform.url("gateway", ""), None) == (
        1,
        "TRIVIUM_API_KEY is not set; it takes a key with the scope infer\n",
    )


def test_a_feature_that_the_gateway_does_not_have_is_told(platform: RunningPlatform, tmp_path: Path) -> None:
    features = _only(tmp_path, "ticket-poems", "ticket-triage")
    code, said = smoke(platform.url("gateway", ""), platform.key, features=features)
    assert code == 1
    assert "✗ ticket-poems: 404: " in said and said.count("ticket-poems") == 2


def test_a_gateway_that_is_away_is_told(tmp_path: Path) -> None:
    features = _only(tmp_path, "ticket-triage", "ticket-triage")
    code, said = smoke(f"http://127.0.0.1:{free_port()}", WRONG, features=features)
    assert code == 1
    assert "✗ ticket-triage: no answer: " in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>welcome</html>", "no answer: Expecting value"),
        (b'{"hello": 1}', "no answer of a gateway: {'hello': 1}"),
        (b"[]", "no answer of a gateway: []"),
    ],
)
def test_something_else_than_a_gateway_is_told(tmp_path: Path, body: bytes, told: str) -> None:
    features = _only(tmp_path, "ticket-triage", "ticket-triage")
    with _answering(body) as url:
        code, said = smoke(url, WRONG, features=features)
    assert code == 1
    assert f"✗ ticket-triage: {told}" in said


def test_a_fallback_is_no_fault_unless_one_says_so(platform: RunningPlatform, tmp_path: Path) -> None:
    features = _only(tmp_path, "ticket-triage", "ticket-triage")
    manifest = features / "ticket-triage/feature.yaml"
    text = "I ordered a new card two weeks ago and it still has not turned up. Where is it?"
    manifest.write_text(manifest.read_text().replace(text, "The weather of the day in Lisbon"))
    code, said = smoke(platform.url("gateway", ""), platform.key, features=features)
    assert code == 0 and "✓ ticket-triage: degraded, " in said
    code, said = smoke(platform.url("gateway", ""), platform.key, "--strict", features=features)
    assert code == 1 and "✗ ticket-triage: degraded, " in said
