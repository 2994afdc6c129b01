"""Real parts that several tests share."""

import gc
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.databases import MigratedPostgres, make_sqlite
from support.edge import RunningEdge, running_edge
from support.platform import RunningPlatform, free_offset
from support.postgres import Postgres
from support.sharing import BySharedParts
from support.unleash import Unleash, install, missing
from trivium.store.engine import Database

ROOT = Path(__file__).parents[1]
gc.disable()  # until all tests are collected: none of that is garbage


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays, and is looked through no more: each full look took half a second."""
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySharedParts:
    """Where tests run in several processes, what is slow to start is started in one of them."""
    return BySharedParts(config, log)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's settings are its own."""
    for name in list(os.environ):
        if name.startswith(("TRIVIUM_", "ANTHROPIC_", "OPENAI_", "UNLEASH_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for this session, on a unix socket."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> MigratedPostgres:
    """The database of PostgreSQL that tests get, one after the other."""
    return MigratedPostgres(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_postgres: MigratedPostgres
) -> AsyncIterator[Database]:
    """A migrated, empty database; every test that takes it runs on both."""
    if request.param == "sqlite":
        url = await make_sqlite(tmp_path / "trivium.db")
    else:
        url = await migrated_postgres.emptied()
    made = Database(url)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """The whole platform on its embedded defaults, started once for the session."""
    running = RunningPlatform(tmp_path_factory.mktemp("platform") / "state", free_offset())
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def artefact(root: Path) -> Path:
    """The folder of the shipped version."""
    (folder,) = (root / "models" / "ticket-triage").iterdir()
    return folder


@pytest.fixture(scope="session")
def edge(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEdge]:
    """A service on the shipped registry, one for the session."""
    with running_edge(root / "models", tmp_path_factory.mktemp("edge") / "log") as running:
        yield running


@pytest.fixture
def registry(artefact: Path, tmp_path: Path) -> Path:
    """A registry of one's own, with the shipped version in it."""
    shutil.copytree(artefact, tmp_path / "models" / "ticket-triage" / artefact.name)
    return tmp_path / "models"


@pytest.fixture(scope="session")
def unleash(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unleash]:
    if lacking := missing():
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    install()
    with Unleash(postgres.new_database(), tmp_path_factory.mktemp("unleash")) as server:
        yield server
