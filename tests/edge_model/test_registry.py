"""Versions come, go and are broken, while a service serves them."""

import functools
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_model.artefacts import Source
from support import artefacts
from support.artefacts import publish
from support.edge import RunningEdge, free_port, running_edge

POLL_S = 0.2


@pytest.fixture
def own(registry: Path, tmp_path: Path) -> Iterator[RunningEdge]:
    """A service on a registry of one's own."""
    with running_edge(registry, tmp_path / "log", edge_poll_s=POLL_S) as edge:
        yield edge


class _Callers:
    """Threads that ask without a pause; `answers` counts status and version."""

    def __init__(self, edge: RunningEdge, count: int = 3) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._stop = threading.Event()
        ask = functools.partial(self._ask, edge)
        self._threads = [threading.Thread(target=ask) for _ in range(count)]

    def __enter__(self) -> "_Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, edge: RunningEdge) -> None:
        while not self._stop.is_set():
            reply = edge.infer("Where is my card?", outputs=[{"name": "label"}])
            self.answers[reply.status, reply.body.get("model_version", "")] += 1


def test_no_request_fails_while_versions_come_and_go(
    own: RunningEdge, registry: Path, artefact: Path
) -> None:
    old = artefact.name
    with _Callers(own) as callers:
        for version in ("101", "102"):
            publish(registry, artefact, version)
            own.until(lambda v=version: own.infer("a").body["model_version"] == v)
        shutil.rmtree(registry / "ticket-triage" / old)
        own.until(lambda: own.infer("a", version=old).status == 404)
        own.until(lambda: f"ticket-triage/{old}" in own.log and "model_drained" in own.log)
        assert own.infer("a", version="101").body["model_version"] == "101"
    assert {status for status, _ in callers.answers} == {200}
    assert {version for _, version in callers.answers} >= {old, "101", "102"}
    assert own.states() == {"101": "READY", "102": "READY"}


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (artefacts.truncate, "model.onnx: its SHA-256"),
    (artefacts.flip_a_bit, "model.onnx: its SHA-256"),
    (artefacts.lose_the_tokenizer, "tokenizer.json is missing"),
    (artefacts.forget_a_label, "the card says (1, 76)"),
    (artefacts.replace_by_garbage, "does not load"),
    (artefacts.spoil_the_card, "model.json"),
    (artefacts.make_nan, "embedding is not finite"),
    (lambda folder: artefacts.edit_card(folder, name="other"), "the card says other/"),
]


def test_what_is_broken_is_refused_and_named_and_the_old_serves_on(
    own: RunningEdge, registry: Path, artefact: Path
) -> None:
    for number, (change, _) in enumerate(BROKEN):
        publish(registry, artefact, str(200 + number), change)
    own.until(lambda: len(own.states()) == 1 + len(BROKEN))
    states = own.states()
    for number, (_, said) in enumerate(BROKEN):
        assert said in states[str(200 + number)]
        assert own.infer("a", version=str(200 + number)).status == 404
    assert own.infer("a").body["model_version"] == artefact.name
    assert own.metric('trivium_model_ready{model="ticket-triage",version="200"}') == 0
    # Refused once, not at every look.
    time.sleep(5 * POLL_S)
    assert own.log.count("model_refused") == len(BROKEN)
    shutil.rmtree(registry / "ticket-triage" / "200")
    publish(registry, artefact, "200")
    own.until(lambda: own.infer("a", version="200").status == 200)


def test_a_version_that_is_overwritten_by_something_broken_serves_on(
    own: RunningEdge, registry: Path, artefact: Path
) -> None:
    folder = registry / "ticket-triage" / artefact.name
    artefacts.truncate(folder)
    own.until(lambda: "model_refused" in own.log)
    assert own.infer("a", version=artefact.name).status == 200
    assert own.get("/v2/health/ready").status == 200


def test_a_registry_that_is_gone_changes_nothing(own: RunningEdge, registry: Path) -> None:
    registry.rename(registry.with_name("elsewhere"))
    own.until(lambda: "registry_empty" in own.log)
    assert own.infer("a").status == 200
    registry.with_name("elsewhere").rename(registry)
    assert own.infer("a").status == 200


def test_without_a_model_it_is_alive_but_not_ready_until_one_comes(
    registry: Path, artefact: Path, tmp_path: Path
) -> None:
    edge = RunningEdge(tmp_path / "none", tmp_path / "log", edge_poll_s=POLL_S)
    try:
        edge.start(ready=False)
        assert edge.get("/v2/health/ready", key=None).status == 503
        assert edge.infer("a").status == 404
        (tmp_path / "none" / "ticket-triage").mkdir(parents=True)
        publish(tmp_path / "none", artefact, "1")
        edge.until(lambda: edge.get("/v2/health/ready", key=None).status == 200)
        assert edge.infer("a").status == 200
    finally:
        edge.stop()


def test_a_registry_may_be_any_url(registry: Path, artefact: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(registry),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            with running_edge(url, tmp_path / "log", edge_poll_s=POLL_S) as edge:
                assert edge.infer("a").body["model_version"] == artefact.name
                publish(registry, artefact, "301")
                edge.until(lambda: edge.infer("a").body["model_version"] == "301")
                server.kill()
                edge.until(lambda: "registry_unreadable" in edge.log)
                assert edge.infer("a").status == 200
        finally:
            server.kill()


def test_versions_compare_as_numbers_and_half_written_ones_do_not_count(
    registry: Path, artefact: Path
) -> None:
    publish(registry, artefact, "9")
    publish(registry, artefact, "10")
    (registry / "ticket-triage" / "11").mkdir()
    shutil.copy(artefact / "model.onnx", registry / "ticket-triage" / "11")
    found = {version.version for version in Source(str(registry)).list()}
    assert found == {artefact.name, "9", "10"}
