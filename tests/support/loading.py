"""A version, loaded without a service."""

from pathlib import Path

from edge_model.artefacts import Source
from edge_model.costs import ROWS
from edge_model.runtime import Model


def load(folder: Path) -> Model:
    """Loads a version without a service."""
    source = Source(str(folder.parents[1]))
    found = next(f for f in source.list() if (f.name, f.version) == (folder.parent.name, folder.name))
    made = Model(source.fetch(found))
    made.costs.fill({(width, rows): 1.0 * rows for width in made.costs.widths for rows in ROWS})
    return made
