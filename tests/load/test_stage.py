"""What a stage counts and times, against real servers."""

import asyncio
import gc
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from load.conftest import Serve
from trivium.errors import ConfigurationError, Unavailable
from trivium.load import (
    Arrivals,
    Goal,
    Monitor,
    Plan,
    StageProgress,
    StageResult,
    Target,
    check_target,
    run,
    run_stage,
)
from trivium.load.connection import fetch
from trivium.load.target import Call

CONSTANT = Plan(Arrivals.CONSTANT)


async def test_a_frozen_server_shows_its_stall_in_the_p99(serve: Serve) -> None:
    server = serve()
    freezing = asyncio.create_task(server.freeze(1.0, 1.0))
    result = await run_stage(server.target(), 200, 3.0, CONSTANT)
    await freezing
    assert result.sent == sum(result.outcomes.values()) == 600
    assert result.latency is not None and result.latency.count == 600
    # As long as it really was: a busy machine stops it late, and wakes it in time.
    assert result.latency.max_ms >= 400
    assert result.latency.p99_ms >= 0.85 * result.latency.max_ms
    assert result.outcomes["late"] >= 60
    assert result.lateness is not None and result.lateness.p50_ms < 50
    assert result.misses(Goal())


async def test_refusals_are_counted_and_timed_apart(serve: Serve) -> None:
    server = serve("--service-ms", "1", "--refuse-every", "4")
    result = await run_stage(server.target(deadline_ms=1000), 100, 0.4, CONSTANT)
    assert result.outcomes == {"ok": 30, "refused": 10}
    assert result.refusal_latency is not None and result.refusal_latency.count == 10
    assert result.latency is not None and result.latency.count == 30
    assert result.errors == {} and result.misses(Goal(p99_ms=1000)) == ["goodput 75.0% < 99% (10 refused)"]


@pytest.mark.parametrize(("status", "name"), [(504, "expired"), (500, "error:500"), (429, "refused")])
async def test_other_statuses_have_their_names(serve: Serve, status: int, name: str) -> None:
    server = serve("--refuse-every", "2", "--refuse-with", str(status))
    result = await run_stage(server.target(deadline_ms=1000), 100, 0.2, CONSTANT)
    assert result.outcomes == {"ok": 10, name: 10}
    assert bool(result.errors) is (status == 500)


@pytest.mark.parametrize("style", ["length", "chunked", "close", "until-close"])
async def test_every_way_to_end_an_answer_is_understood(serve: Serve, style: str) -> None:
    server = serve("--style", style)
    target = server.target(deadline_ms=1000)
    result = await run_stage(target, 100, 0.2, CONSTANT)
    assert result.outcomes == {"ok": 20}
    answer = await fetch(Call(target.url, target.address, target.requests[0]), 5)
    assert answer.status == 200 and answer.body == b'{"outputs": []}'


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_https_is_checked_and_measured(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, both = (tmp_path / name for name in ("key.pem", "certificate.pem", "both.pem"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    url = serve("--certificate", str(both)).url.replace("http://127.0.0.1", "https://localhost")
    with pytest.raises(Unavailable, match=r"not reachable: .*certificate"):
        await check_target(Target.post(url, [b"{}"], deadline_ms=1000))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    target = await check_target(Target.post(url, [b"{}"], deadline_ms=1000))
    result = await run_stage(target, 100, 0.3, CONSTANT)
    assert result.outcomes == {"ok": 30} and result.readiness is not None and result.readiness.failed == 0


async def test_an_answer_that_is_cut_short_is_an_error(serve: Serve) -> None:
    result = await run_stage(serve("--style", "cut").target(), 50, 0.2, CONSTANT)
    assert result.outcomes == {"connection": 10}


async def test_a_gateways_fallback_is_no_goodput(serve: Serve) -> None:
    server = serve("--answer", '{"degraded":true}')
    target = server.target(deadline_ms=1000, unless=b'"degraded":true')
    result = await run_stage(target, 50, 0.2, CONSTANT)
    assert result.outcomes == {"degraded": 10} and result.goodput_share == 0


async def test_a_server_killed_in_mid_stage_is_counted_not_waited_for(serve: Serve) -> None:
    server = serve("--service-ms", "5")

    def kill(progress: StageProgress) -> None:
        if progress.resolved >= 30:
            server.process.kill()

    async with asyncio.timeout(20):
        result = await run_stage(server.target(deadline_ms=1000), 100, 2.0, CONSTANT, Monitor(kill))
    assert result.sent == sum(result.outcomes.values()) == 200
    assert result.outcomes["connection"] >= 40 and result.outcomes["ok"] >= 20
    assert any("connection" in miss for miss in result.misses(Goal()))
    assert result.readiness is not None and result.readiness.failed >= 3


async def test_a_silent_server_times_out_and_the_timeout_is_in_the_p99(serve: Serve) -> None:
    server = serve("--service-ms", "60000")
    result = await run_stage(server.target(), 50, 0.4, Plan(Arrivals.CONSTANT, timeout_ms=300))
    assert result.outcomes == {"timeout": 20}
    assert result.latency is not None and result.latency.p50_ms >= 300


async def test_beyond_the_pool_a_request_fails_at_once(serve: Serve) -> None:
    server = serve("--service-ms", "60000")
    plan = Plan(Arrivals.CONSTANT, connections=5, timeout_ms=600)
    result = await run_stage(server.target(), 50, 0.4, plan)
    assert result.outcomes == {"no_connection": 15, "timeout": 5}
    assert result.peak_connections == 5


async def test_a_late_generator_is_told_from_a_slow_server(serve: Serve) -> None:
    server = serve()
    loop = asyncio.get_running_loop()

    def block() -> None:
        import time

        time.sleep(0.4)

    loop.call_later(0.3, block)
    result = await run_stage(server.target(), 100, 1.0, CONSTANT)
    assert result.generator_saturated and result.sent == 100
    assert result.latency is not None and result.latency.p99_ms >= 300


async def test_readiness_and_memory_are_measured_beside_the_load(serve: Serve) -> None:
    target = await check_target(serve("--metrics").target(deadline_ms=1000))
    result = await run_stage(target, 50, 0.6, CONSTANT)
    assert result.readiness is not None and result.readiness.failed == 0
    assert result.readiness.latency.count >= 5
    assert result.rss_before_bytes is not None and result.rss_after_bytes is not None
    assert result.rss_after_bytes - result.rss_before_bytes == 30
    bare = await check_target(serve().target(deadline_ms=1000))
    assert bare.metrics is None and (await run_stage(bare, 50, 0.2)).rss_after_bytes is None


async def test_progress_is_told_and_a_stop_keeps_what_was_sent(serve: Serve) -> None:
    told: list[StageProgress] = []
    ended: list[StageResult] = []

    def tell(progress: StageProgress) -> None:
        told.append(progress)
        if len(told) == 3:
            monitor.stop.set()

    monitor = Monitor(tell, ended.append)
    result = await run_stage(serve().target(deadline_ms=1000), 100, 30, CONSTANT, monitor, "long")
    assert result.interrupted and result.seconds < 10
    assert result.sent == sum(result.outcomes.values()) == result.outcomes["ok"]
    assert told[-1].label == "long" and told[0].elapsed_s < told[-1].elapsed_s
    assert ended == [result] and gc.isenabled()


async def test_an_unreachable_or_failing_target_is_said(serve: Serve) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        nobody = Target.post(f"http://127.0.0.1:{port}/infer?token=secret", [b"{}"])
        with pytest.raises(
            Unavailable, match=rf"^http://127\.0\.0\.1:{port}/infer: not reachable: "
        ) as caught:
            await check_target(nobody)
    assert "secret" not in str(caught.value)
    failing = serve("--status", "422", "--answer", '{"error": "text is\\nempty"}')
    with pytest.raises(Unavailable, match="answered 422: text is empty"):
        await check_target(failing.target())


def test_the_loop_without_uvloop_does_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    result = run(run_stage(serve().target(deadline_ms=1000), 100, 0.5, CONSTANT))
    assert result.outcomes == {"ok": 50}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8081/x", "right would be http"),
        ("ftp://h/x", "right would be http"),
        ("http://h:99999/x", "right would be http"),
        ("http://h/a b", "right would be http"),
        ("http://me:secret@h/x", "use --header"),
    ],
)
def test_a_faulty_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Target.post(url, [b"{}"])


def test_a_header_cannot_smuggle_another() -> None:
    with pytest.raises(ConfigurationError, match="on one line"):
        Target.post("http://h/x", [b"{}"], headers={"A": "b\r\nC: d"})
