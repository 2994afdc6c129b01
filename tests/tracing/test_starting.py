"""When traces are made: only where the standard variables say so, and whatever they say, a service serves."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.edge import RunningEdge, free_port
from support.platform import clean_environment
from support.traces import collecting
from trivium import tracing
from trivium.store.engine import Database, migrate
from trivium.tracing.environment import unsupported, wants_traces
from trivium.tracing.starting import start, stop

OURS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
ALL = "OTEL_EXPORTER_OTLP_ENDPOINT"
WATCHED = """
import os, runpy, signal, sys, threading, time, urllib.request

def watch():
    while True:
        time.sleep(0.05)
        try:
            urllib.request.urlopen(sys.argv[2] + "/health/live").close()
            break
        except OSError:
            pass
    # FastAPI imports the API by itself.
    ours = "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "trivium.tracing.recorded"
    found = sorted(n for n in sys.modules if n.startswith(ours))
    open(sys.argv[3], "w").write(" ".join(found) or "none")
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch, daemon=True).start()
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({ALL: "http://c:4318"}, True),
        ({OURS: "http://c:4318/v1/traces"}, True),
        ({ALL: " "}, False),
        ({ALL: "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({ALL: "http://c:4318", "OTEL_SDK_DISABLED": "false"}, True),
        ({ALL: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ALL: "http://c:4318", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_are_wanted_where_an_endpoint_is_set(variables: dict[str, str], wanted: bool) -> None:
    assert wants_traces(variables) is wanted


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        (ALL, "collector:4317", "http://"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size"),
    ],
)
def test_what_cannot_be_had_is_told_and_leaves_the_service_without_traces(
    name: str, value: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALL, "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with capture_logs() as lines:
        assert start("gateway") is False
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("traces_off", "warning")
    assert right in line["detail"] and (name in line["detail"] or "OTEL_" in line["detail"])
    assert not tracing.active()


def test_the_narrower_protocol_counts() -> None:
    both = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert unsupported({ALL: "http://c:4318", **both}) is None


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALL, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with capture_logs() as lines:
        assert start("worker") is False
    (line,) = lines
    assert line["event"] == "traces_off"
    assert "pip install 'trivium[batch-worker,otel]'" in line["detail"]


async def test_without_the_variables_no_service_imports_what_makes_and_sends_spans(
    tmp_path: Path, root: Path
) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    await migrate(database)
    await database.close()
    ports = {"gateway": "gateway", "batch_worker": "worker", "edge_model": "edge"}
    started = []
    for module, name in ports.items():
        port, found = free_port(), tmp_path / module
        environment = {
            **{k: v for k, v in clean_environment().items() if not k.startswith("OTEL_")},
            "TRIVIUM_STATE_DIR": str(tmp_path / f"state-{name}"),
            "TRIVIUM_DATABASE_URL": f"sqlite:///{tmp_path / 'trivium.db'}",
            f"TRIVIUM_{name.upper()}_PORT": str(port),
            "TRIVIUM_EDGE_GRPC_PORT": str(free_port()),
        }
        command = [sys.executable, "-c", WATCHED, module, f"http://127.0.0.1:{port}", str(found)]
        with (tmp_path / f"{module}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log))
    try:
        for process in started:
            process.wait(60)
    finally:
        for process in started:
            process.kill()
            process.wait(5)
    for module in ports:
        said = (tmp_path / f"{module}.log").read_text()
        assert (tmp_path / module).exists(), said
        assert (tmp_path / module).read_text() == "none"
        assert "traces_" not in said


def _serve(models: Path, log: Path, requests: int, variables: dict[str, str]) -> tuple[str, int]:
    """An edge service answers requests with variables set, and ends; its log and exit code."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        edge = RunningEdge(models, log)
    edge.start()
    try:
        for number in range(requests):
            assert edge.infer(f"Where is my card {number}?").status == 200
    finally:
        edge.stop()
    assert edge.process
    return edge.log, edge.process.returncode


def test_a_collector_that_is_away_costs_no_request_and_fills_no_log(root: Path, tmp_path: Path) -> None:
    away = {
        ALL: f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "5",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.01",
    }
    log, code = _serve(root / "models", tmp_path / "log", 60, away)
    told = [json.loads(line) for line in log.splitlines() if "export" in line]
    assert len(told) == 1, log
    assert "Failed to export spans batch" in told[0]["event"]
    assert code in (0, -signal.SIGTERM)


def test_a_collector_that_is_silent_costs_no_request_and_does_not_hold_the_end(
    root: Path, tmp_path: Path
) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(64)
        silent = {
            ALL: f"http://127.0.0.1:{hole.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "5",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        }
        log, code = _serve(root / "models", tmp_path / "log", 60, silent)
        hole.settimeout(5)
        sending, _ = hole.accept()
        assert sending.recv(20).startswith(b"POST /v1/traces")
        sending.close()
    assert log.count("Queue full") == 1
    assert code in (0, -signal.SIGTERM), "it had to be killed"


def test_the_standard_variables_are_honoured(root: Path, tmp_path: Path) -> None:
    with collecting() as collector:
        wanted = {
            OURS: f"{collector.url}/v1/traces",
            "OTEL_SERVICE_NAME": "my-edge",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests,service.version=7",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so that what is sent is sent at the end
        }
        log, _ = _serve(root / "models", tmp_path / "log", 3, wanted)
        assert len(collector.find_all(3, service="my-edge")) == 3
        about = collector.resources["my-edge"]
        assert (about["deployment.environment.name"], about["service.version"]) == ("tests", "7")
        assert '"service_name":"my-edge"' in log


@pytest.mark.parametrize("share", ["0", "1"])
async def test_a_sampler_decides_what_is_sent(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ALL, collector.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
        assert start("gateway")
        with tracing.span("work"):
            pass
        await stop()
        assert not tracing.active()
        assert [span.service for span in collector.spans] == ["trivium-gateway"] * int(share)
