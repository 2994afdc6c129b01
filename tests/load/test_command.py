"""`trivium load` as a person runs it: exit codes, files, and no key in any of them."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from load.conftest import Serve
from trivium.cli.main import app
from trivium.load import Search
from trivium.load.options import Options, make_target

KEY = "k3y-that-must-not-be-kept"
HEADER = "h3ader-that-must-not-be-kept"


def _command(root: Path, folder: Path, *words: object) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIVIUM_")}
    return {
        "args": [sys.executable, "-m", "trivium.cli.main", "load", "--out", "out", *map(str, words)],
        "env": {**environment, "TRIVIUM_FEATURES_DIR": str(root / "features"), "TRIVIUM_SERVICE_KEY": KEY},
        "cwd": folder,
        "text": True,
    }


@pytest.fixture
def load(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in a folder of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    return lambda *words: CliRunner().invoke(app, ["load", "--out", "out", *map(str, words)])


def test_a_held_rate_exits_0_and_keeps_no_secret(serve: Serve, root: Path, tmp_path: Path) -> None:
    server = serve("--metrics", "--keep")
    words = ("--p99-ms", 1000, "--rate", 40, "--seconds", 0.5, "--header", f"X-Token: {HEADER}")
    command = _command(root, tmp_path, "--url", f"{server.url}?token={HEADER}", *words)
    done = subprocess.run(**command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Held at 40/s." in done.stdout
    assert f"Authorization: Bearer {KEY}\n" in server.seen()["heads"][0]
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["latency-by-rate.html", "latency-by-rate.png", "results.json"]
    for content in (*written.values(), done.stdout.encode(), done.stderr.encode()):
        assert KEY.encode() not in content and HEADER.encode() not in content
    result = json.loads(written["results.json"])
    assert result["target"]["headers"] == ["X-Token", "Authorization"]
    warm_up, stage = result["stages"]
    assert warm_up["label"] == "warm-up" and stage["outcomes"] == {"ok": 20} and stage["misses"] == []
    assert {"p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"} <= stage["latency"].keys()
    assert stage["rss_after_bytes"] > 0 and stage["readiness"]["failed"] == 0
    assert result["versions"]["python"] and result["started_at"]


def test_the_page_needs_nothing_else(serve: Serve, load: Any, tmp_path: Path) -> None:
    load("--url", serve().base, "--model", "m/2", "--rate", 40, "--seconds", 0.5, "--p99-ms", 1000)
    page = (tmp_path / "out/latency-by-rate.html").read_text()
    assert "/v2/models/m/versions/2/infer" in page
    assert "<svg" in page and "<table" in page
    assert not re.search(r"<(script|link|iframe|img|object)\b|@import|url\((?!#)|src=", page)
    assert not re.search(r'href="(?!#)', page)
    assert (tmp_path / "out/latency-by-rate.png").read_bytes().startswith(b"\x89PNG")


def test_a_missed_target_exits_1(serve: Serve, load: Any, tmp_path: Path) -> None:
    server = serve("--service-ms", "20", "--queue-ms", "50")
    done = load("--url", server.url, "--rate", 100, "--seconds", 0.5, "--no-plot")
    assert done.exit_code == 1, done.output
    assert "Missed at 100/s: goodput" in done.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_a_knee_below_the_least_exits_1(
    serve: Serve, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.cli.load.Search", functools.partial(Search, precision=0.5))
    server = serve("--service-ms", "20", "--queue-ms", "60")
    times = ("--seconds", 0.5, "--step-seconds", 0.5, "--start-rate", 40, "--arrivals", "constant")
    done = load("--url", server.url, "--p99-ms", 200, *times, "--min-rate", 500, "--no-plot")
    assert done.exit_code == 1, done.output
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert re.search(r"Knee at [\d.]+/s, below the 500/s asked for", result["verdict"])
    assert result["knee"]["rate"] < 100
    assert [stage["label"] for stage in result["stages"]][-4:] == ["50%", "100%", "120%", "200%"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--url", "http://127.0.0.1:1/v2/models/m/infer"), r"/v2/models/m/infer: not reachable: "),
        (("--url", "http://127.0.0.1:1/x"), "--shape"),
        (("--url", "nonsense", "--model", "m"), "is no URL"),
        (("--url", "http://h/v2/models/a/infer", "--model", "b"), "differ"),
        (("--url", "http://h/v2/models/a/infer", "--header", "nonsense"), "no colon"),
        (("--url", "http://h/v2/models/a/infer", "--data", "none.csv"), "No such file"),
        (("--url", "http://h/v2/models/a/infer", "--rate", "-1"), "--rate"),
        ((), "--url"),
    ],
)
def test_what_cannot_be_run_exits_2_with_a_reason(words: tuple[str, ...], said: str, load: Any) -> None:
    done = load(*words)
    assert done.exit_code == 2, done.output
    assert re.search(said, done.output)


@pytest.mark.parametrize(
    ("name", "path", "sent"),
    [
        ("service.key", "/v2/models/m/infer", "made by up"),
        ("dev.key", "/v1/features/f/infer", "made by up"),
        (None, "/v2/models/m/infer", "development-service-key"),
    ],
)
def test_on_this_machine_the_keys_of_up_are_used(
    name: str | None, path: str, sent: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(root / "features"))
    if name:
        (tmp_path / name).write_text("made by up\n")
    target = make_target(Options(f"http://127.0.0.1:1{path}"))
    assert f"Authorization: Bearer {sent}\r\n".encode() in target.requests[0]
    assert b"Authorization" not in make_target(Options(f"http://elsewhere.test{path}")).requests[0]
    monkeypatch.setenv("TRIVIUM_SERVICE_KEY", "service")
    monkeypatch.setenv("TRIVIUM_API_KEY", "api")
    given = b"Bearer api\r\n" if "/v1/" in path else b"Bearer service\r\n"
    assert given in make_target(Options(f"http://elsewhere.test{path}")).requests[0]


def test_a_features_fallbacks_are_no_goodput_unless_allowed(serve: Serve, load: Any) -> None:
    server = serve("--answer", '{"degraded":true}')
    words = ("--url", f"{server.base}/v1/features/f/infer", "--rate", 40, "--seconds", 0.5, "--no-plot")
    done = load(*words, "--p99-ms", 1000)
    assert done.exit_code == 1 and "goodput 0.0% < 99% (20 degraded)" in done.output
    assert load(*words, "--p99-ms", 1000, "--allow-degraded").exit_code == 0


def test_the_servers_own_error_is_shown(serve: Serve, load: Any) -> None:
    server = serve("--status", "401", "--answer", '{"error": "a valid API key is needed"}')
    done = load("--url", server.url)
    assert done.exit_code == 2
    assert done.output.strip() == f"{server.url}: answered 401: a valid API key is needed"


def test_ctrl_c_writes_what_was_measured_and_exits_130(serve: Serve, root: Path, tmp_path: Path) -> None:
    words = ("--url", serve().url, "--rate", 50, "--seconds", 60, "--p99-ms", 1000, "--no-plot")
    running = subprocess.Popen(
        **_command(root, tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stderr is not None and "warm-up" in running.stderr.readline()
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=20)
    assert running.returncode == 130 and "Interrupted." in said
    stages = json.loads((tmp_path / "out/results.json").read_text())["stages"]
    assert [stage["interrupted"] for stage in stages] == [False, True]
    assert stages[1]["sent"] == sum(stages[1]["outcomes"].values()) > 0
