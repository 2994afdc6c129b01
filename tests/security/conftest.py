"""Services that run as they ship, to be attacked over loopback."""

import json
from collections.abc import Iterator

import pytest

from support.attacked import Bait, Running, running_gateway
from support.edge import RunningEdge
from support.vendor import Vendor


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    """A provider, for the routes."""
    with Vendor() as running:
        yield running


@pytest.fixture(scope="session")
def bait() -> Iterator[Bait]:
    """A server that nobody may be led to but below /exports/."""
    with Bait() as running:
        yield running


@pytest.fixture(scope="session")
def gateway(
    edge: RunningEdge, vendor: Vendor, bait: Bait, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The gateway on SQLite, and what belongs to it."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "exports").mkdir()
    allowed = [f"{bait.url}/exports/", str(folder / "exports")]
    url = f"sqlite+aiosqlite:///{folder / 'state/trivium.db'}"
    settings = {"TRIVIUM_SOURCE_URLS": json.dumps(allowed)}
    with running_gateway(folder, url, edge, vendor, **settings) as made:
        yield made
