"""The shipped model, loaded in this process."""

from pathlib import Path

import pytest

from edge_model.runtime import Model
from support.loading import load


@pytest.fixture(scope="session")
def model(artefact: Path) -> Model:
    """The shipped version, loaded; its costs are made up."""
    return load(artefact)
