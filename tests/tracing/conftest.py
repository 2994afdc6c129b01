"""A platform that is traced, and the collector that its traces go to."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.platform import RunningPlatform, free_offset
from support.traced_features import write_features
from support.traces import Collector, collecting


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="session")
def traced(
    root: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPlatform]:
    """The whole platform, told by the standard variables to send its traces to the collector."""
    folder = tmp_path_factory.mktemp("traced")
    features = write_features(folder, root / "features")
    settings = {
        "TRIVIUM_FEATURES_DIR": str(features),
        "TRIVIUM_SOURCE_CONNECTIONS": json.dumps({"clock": f"sqlite+aiosqlite:///{folder / 'clock.db'}"}),
        **collector.variables,
    }
    running = RunningPlatform(folder / "state", free_offset(), env=settings)
    try:
        yield running.start()
    finally:
        running.stop()
