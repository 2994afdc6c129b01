import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from support.platform import clean_environment
from support.unleash import Unleash
from trivium.errors import ConfigurationError
from trivium.flag_client import UnleashFlags
from trivium.flags import FlagSettings

SUBJECTS = [f"subject-{n}" for n in range(2000)]
# The refresh interval is 1 s, and Unleash itself looks for changes once a second; the rest is for a
# busy machine.
WITHIN = 5.0
SECRET = "backend-of-the-tests"
ON = json.dumps({"version": 1, "features": [{"name": "on", "enabled": True, "strategies": []}]})


@pytest.fixture
def killed(unleash: Unleash) -> Iterator[Callable[[], None]]:
    """Kills the server; for the next test it is back."""
    yield unleash.kill
    unleash.kill()
    unleash.start()


@pytest.fixture
def dead() -> str:
    """The address of a server that is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api"


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a web server that is no Unleash, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("web")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def flags_of(
    url: str, state_dir: Path, flags_file: Path | None = None, token: str = Unleash.token
) -> AsyncIterator[UnleashFlags]:
    flags = UnleashFlags(
        FlagSettings(
            unleash_url=url,
            unleash_token=SecretStr(token),
            state_dir=state_dir,
            flags_file=flags_file,
            flags_refresh_s=1,
        )
    )
    await flags.start()
    try:
        yield flags
    finally:
        await flags.stop()


async def eventually(check: Callable[[], bool], within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def those_in(flags: UnleashFlags, flag: str) -> set[str]:
    return {subject for subject in SUBJECTS if flags.is_enabled(flag, subject, {})}


def is_on(flags: UnleashFlags, flag: str) -> Callable[[], bool]:
    return lambda: flags.is_enabled(flag, "subject-1", {})


def kept(state_dir: Path) -> Path:
    return state_dir / "flags-last-known.json"


@pytest.mark.unleash
async def test_a_flag_is_off_until_the_server_knows_it_and_within_a_refresh_after(
    unleash: Unleash, tmp_path: Path
) -> None:
    async with flags_of(unleash.url, tmp_path) as flags:
        await eventually(kept(tmp_path).exists)
        assert not flags.is_enabled("summary", "subject-1", {})
        unleash.create_flag("summary", 100)
        await eventually(is_on(flags, "summary"))
        assert those_in(flags, "summary") == set(SUBJECTS)
        assert not flags.is_enabled("unknown", "subject-1", {})


@pytest.mark.unleash
async def test_switching_the_environment_off_and_on_takes_effect_within_a_refresh(
    unleash: Unleash, tmp_path: Path
) -> None:
    unleash.create_flag("switched", 100)
    async with flags_of(unleash.url, tmp_path) as flags:
        await eventually(is_on(flags, "switched"))
        unleash.switch("switched", on=False)
        await eventually(lambda: not those_in(flags, "switched"))
        unleash.switch("switched", on=True)
        await eventually(is_on(flags, "switched"))


@pytest.mark.unleash
async def test_a_larger_share_keeps_everyone_who_was_in(unleash: Unleash, tmp_path: Path) -> None:
    unleash.create_flag("gradual", 30)
    async with (
        flags_of(unleash.url, tmp_path / "a") as flags,
        flags_of(unleash.url, tmp_path / "b") as another_process,
    ):
        await eventually(lambda: bool(those_in(flags, "gradual") and those_in(another_process, "gradual")))
        at_30 = those_in(flags, "gradual")
        assert 0.25 < len(at_30) / len(SUBJECTS) < 0.35
        assert those_in(flags, "gradual") == at_30
        assert those_in(another_process, "gradual") == at_30
        unleash.set_rollout("gradual", 60)
        await eventually(lambda: len(those_in(flags, "gradual")) > 0.5 * len(SUBJECTS))
        at_60 = those_in(flags, "gradual")
        assert 0.55 < len(at_60) / len(SUBJECTS) < 0.65
        assert at_30 < at_60


@pytest.mark.unleash
async def test_with_the_server_killed_the_last_state_answers_without_delay_and_changes_arrive_once_it_is_back(
    unleash: Unleash, tmp_path: Path, killed: Callable[[], None]
) -> None:
    unleash.create_flag("kept", 30)
    async with flags_of(unleash.url, tmp_path) as flags:
        await eventually(lambda: bool(those_in(flags, "kept")))
        before = those_in(flags, "kept")
        killed()
        slowest = 0.0
        until = time.monotonic() + 3.5  # three refreshes and more
        while time.monotonic() < until:
            began = time.monotonic()
            assert flags.is_enabled("kept", "subject-1", {}) == ("subject-1" in before)
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.002)
        assert slowest < 0.25
        assert those_in(flags, "kept") == before
        await asyncio.to_thread(unleash.start)
        unleash.set_rollout("kept", 100)
        await eventually(lambda: len(those_in(flags, "kept")) == len(SUBJECTS))


@pytest.mark.unleash
async def test_started_while_the_server_is_down_the_last_known_state_serves_before_the_file(
    unleash: Unleash, tmp_path: Path, killed: Callable[[], None]
) -> None:
    unleash.create_flag("remembered", 30)
    file = tmp_path / "flags.json"
    file.write_text(ON)
    async with flags_of(unleash.url, tmp_path, file) as flags:
        await eventually(lambda: bool(those_in(flags, "remembered")))
        before = those_in(flags, "remembered")
    killed()
    async with flags_of(unleash.url, tmp_path, file) as restarted:
        for _ in range(2):
            assert those_in(restarted, "remembered") == before
            assert not restarted.is_enabled("on", "subject-1", {})
            await asyncio.sleep(1.5)
    assert [path.name for path in tmp_path.glob("*last-known*")] == [kept(tmp_path).name]


@pytest.mark.unleash
async def test_the_file_serves_until_the_first_answer_and_no_longer(
    unleash: Unleash, tmp_path: Path, killed: Callable[[], None]
) -> None:
    killed()
    file = tmp_path / "flags.json"
    file.write_text(ON)
    async with flags_of(unleash.url, tmp_path, file) as flags:
        assert flags.is_enabled("on", "subject-1", {})
        await asyncio.sleep(1.5)
        assert flags.is_enabled("on", "subject-1", {})
        await asyncio.to_thread(unleash.start)
        await eventually(lambda: not flags.is_enabled("on", "subject-1", {}))


@pytest.mark.unleash
async def test_a_token_that_is_refused_changes_nothing(unleash: Unleash, tmp_path: Path) -> None:
    kept(tmp_path).write_text(ON)
    async with flags_of(unleash.url, tmp_path, token="default:development.revoked") as flags:
        await asyncio.sleep(1.5)
        assert flags.is_enabled("on", "subject-1", {})
    assert kept(tmp_path).read_text() == ON


@pytest.mark.unleash
async def test_a_state_that_cannot_be_kept_on_disk_is_served_and_refreshed(
    unleash: Unleash, tmp_path: Path
) -> None:
    unleash.create_flag("unkept", 100)
    occupied = tmp_path / "state"
    occupied.write_text("no folder")
    async with flags_of(unleash.url, occupied) as flags:
        await eventually(is_on(flags, "unkept"))
        unleash.switch("unkept", on=False)
        await eventually(lambda: not those_in(flags, "unkept"))


@pytest.mark.unleash
async def test_stopping_leaves_no_thread_behind(unleash: Unleash, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with flags_of(unleash.url, tmp_path):
        await eventually(kept(tmp_path).exists)
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")}
    assert left <= before


async def test_with_no_server_the_file_serves_where_nothing_is_known_yet_and_else_every_flag_is_off(
    dead: str, tmp_path: Path
) -> None:
    file = tmp_path / "flags.json"
    file.write_text(ON)
    async with flags_of(dead, tmp_path, file) as flags:
        assert flags.is_enabled("on", "subject-1", {})
        await asyncio.sleep(1.5)
        assert flags.is_enabled("on", "subject-1", {})
    assert not kept(tmp_path).exists()
    async with flags_of(dead, tmp_path) as flags:
        await asyncio.sleep(1.5)
        assert not flags.is_enabled("on", "subject-1", {})


@pytest.mark.parametrize("broken", [b"", b'{"version": 1, "fea', b"\xff", b"{}"])
async def test_a_last_known_state_that_cannot_be_read_gives_way_to_the_file(
    dead: str, tmp_path: Path, broken: bytes
) -> None:
    kept(tmp_path).write_bytes(broken)
    file = tmp_path / "flags.json"
    file.write_text(ON)
    async with flags_of(dead, tmp_path, file) as flags:
        assert flags.is_enabled("on", "subject-1", {})


@pytest.mark.parametrize("page", ["<!doctype html><title>Sign in</title>", "{}", '{"features": null}'])
async def test_a_page_that_is_answered_instead_of_flags_is_neither_served_nor_kept(
    web: tuple[str, Path], tmp_path: Path, page: str
) -> None:
    url, folder = web
    (folder / "client").mkdir()
    (folder / "client/features").write_text(page)
    kept(tmp_path).write_text(ON)
    async with flags_of(url, tmp_path) as flags:
        await asyncio.sleep(1.5)
        assert flags.is_enabled("on", "subject-1", {})
        assert kept(tmp_path).read_text() == ON


async def test_a_missing_file_is_refused_with_a_server_too(dead: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TRIVIUM_FLAGS_FILE"):
        async with flags_of(dead, tmp_path, tmp_path / "flags.json"):
            pass


async def test_a_server_that_never_answers_delays_neither_the_start_nor_an_evaluation(
    black_hole: str, tmp_path: Path
) -> None:
    kept(tmp_path).write_text(ON)
    began = time.monotonic()
    async with flags_of(black_hole, tmp_path) as flags:
        assert time.monotonic() - began < 1
        for _ in range(20):
            asked = time.monotonic()
            assert flags.is_enabled("on", "subject-1", {})
            assert time.monotonic() - asked < 0.25
            await asyncio.sleep(0.02)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 20  # 9 s: three requests of 3 s


async def test_stopping_at_once_after_the_start_is_quiet(
    dead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        async with flags_of(dead, tmp_path):
            pass
    gc.collect()  # an exception that nobody fetched from a task is told when the task goes
    assert "never retrieved" not in caplog.text
    assert "teardown" not in caplog.text


async def test_stopping_what_was_never_started_is_possible(dead: str, tmp_path: Path) -> None:
    await UnleashFlags(FlagSettings(unleash_url=dead, state_dir=tmp_path)).stop()


@pytest.mark.parametrize("url", ["localhost:4242/api", "unleash", "http:///api", "ftp://unleash/api"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="unleash_url"):
        FlagSettings(unleash_url=url)


@pytest.mark.parametrize("token", ["two\nlines", "naïve", "nul\0"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_told(token: str, tmp_path: Path) -> None:
    settings = FlagSettings(unleash_url="http://x/api", unleash_token=SecretStr(token), state_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="TRIVIUM_UNLEASH_TOKEN") as refused:
        UnleashFlags(settings)
    assert token not in refused.value.detail


SERVICE = """
import asyncio
from trivium.flag_client import UnleashFlags
from trivium.flags import FlagSettings
from trivium.telemetry import configure_logging

async def serve() -> None:
    settings = FlagSettings()
    configure_logging(settings, "service")
    flags = UnleashFlags(settings)
    await flags.start()
    await asyncio.sleep(2.5)
    print("on:", flags.is_enabled("told", "subject-1", {}), flush=True)
    await flags.stop()

asyncio.run(serve(), debug=True)
"""


def logs_of_a_service(url: str, state_dir: Path, log_format: str, token: str = Unleash.token) -> str:
    """What a process of its own writes at its most talkative, whole tracebacks included."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        env=clean_environment()
        | {
            "TRIVIUM_UNLEASH_URL": url,
            "TRIVIUM_UNLEASH_TOKEN": token,
            "TRIVIUM_STATE_DIR": str(state_dir),
            "TRIVIUM_FLAGS_REFRESH_S": "1",
            "TRIVIUM_LOG_LEVEL": "debug",
            "TRIVIUM_LOG_FORMAT": log_format,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        return process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize(
    ("server", "log_format"), [("dead", "json"), ("dead", "console"), ("black_hole", "json")]
)
def test_the_token_is_in_no_log_of_a_server_that_fails(
    server: str, log_format: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    logs = logs_of_a_service(request.getfixturevalue(server), tmp_path, log_format)
    assert "on: False" in logs
    assert "Unleash Client feature fetch failed" in logs
    assert SECRET not in logs
    assert len(logs) < 20_000


@pytest.mark.unleash
def test_the_token_is_in_no_log_of_a_server_that_answers(unleash: Unleash, tmp_path: Path) -> None:
    unleash.create_flag("told", 100)
    # As it comes out of a mounted secret, with the end of its line.
    logs = logs_of_a_service(unleash.url, tmp_path, "json", f"{Unleash.token}\n")
    assert "on: True" in logs
    assert SECRET not in logs


@pytest.mark.unleash
def test_the_token_is_in_no_log_of_a_server_that_refuses_it(unleash: Unleash, tmp_path: Path) -> None:
    logs = logs_of_a_service(unleash.url, tmp_path, "json", f"default:development.no-{SECRET}")
    assert "status code: 401" in logs
    assert SECRET not in logs
