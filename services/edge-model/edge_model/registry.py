"""The models that serve, by name and version."""

from pathlib import Path

import structlog

from edge_model.runtime import Model
from trivium.errors import ConfigurationError, NotFound
from trivium.metrics import MODEL_READY

log = structlog.get_logger()


class Registry:
    """Models of a folder `<name>/<version>/`."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Model]] = {}

    def load(self, folder: Path) -> None:
        """Loads every version below a folder; one that does not load is named in the log and left out."""
        for card in sorted(folder.glob("*/*/model.json")):
            try:
                self.add(Model(card.parent))
            except ConfigurationError as error:
                MODEL_READY.labels(card.parent.parent.name, card.parent.name).set(0)
                log.error("model_refused", detail=error.detail)

    def add(self, model: Model) -> None:
        """Lets a model serve."""
        name, version = model.card.name, model.card.version
        self._models.setdefault(name, {})[version] = model
        MODEL_READY.labels(name, version).set(1)
        log.info("model_loaded", model=name, version=version)

    @property
    def names(self) -> list[str]:
        """Names of the models that serve."""
        return sorted(self._models)

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first; numbers in them compare as numbers."""
        return sorted(self._models.get(name, {}), key=_natural)

    def get(self, name: str, version: str | None = None) -> Model:
        """A model; without a version the newest. Raises NotFound with what there is."""
        if name not in self._models:
            raise NotFound(f"There is no model {name!r}; there are: {', '.join(self.names) or 'none'}")
        versions = self.versions(name)
        chosen = version or versions[-1]
        if chosen not in versions:
            raise NotFound(f"There is no version {chosen!r} of {name}; there are: {', '.join(versions)}")
        return self._models[name][chosen]


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in version.split(".")]
