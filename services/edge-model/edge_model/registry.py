"""The models that serve, by name and version, and how they come and go while they do."""

import asyncio
import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from edge_model.artefacts import Found, Source
from edge_model.batching import Runner
from edge_model.costs import REPEATS, ROWS, timed_ms
from edge_model.runtime import Model
from trivium.errors import ConfigurationError, NotFound
from trivium.metrics import MODEL_READY

log = structlog.get_logger()
Key = tuple[str, str]
DRAIN_POLL_S = 0.02


class Registry:
    """Follows a source: what is new there is loaded, warmed, tried and swapped in; the old is drained.

    What does not load is refused and named, and what serves keeps serving.
    """

    def __init__(
        self, source: Source, runner: Runner, threads_per_run: int = 1, always_batch: bool = False
    ) -> None:
        self._source = source
        self._runner = runner
        self._threads_per_run = threads_per_run
        self._always_batch = always_batch
        self._models: dict[str, dict[str, Model]] = {}  # versions oldest first
        self._fingerprints: dict[Key, str] = {}
        self._refused: dict[Key, str] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._told = ""

    async def refresh(self) -> None:
        """Takes in what changed at the source since the last time."""
        try:
            found = await asyncio.to_thread(self._source.list)
        except ConfigurationError as error:
            self._tell("registry_unreadable", error.detail)
            return
        if not found and self._models:
            self._tell("registry_empty", f"{self._source.url} lists no model; what serves goes on")
            return
        self._told = ""
        for version in found:
            if self._fingerprints.get((version.name, version.version)) != version.fingerprint:
                await self._take_in(version)
        there = {(version.name, version.version) for version in found}
        for key in self._fingerprints.keys() - there:
            self._retire(key)

    async def watch(self, every_s: float) -> None:
        """Refreshes for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh()

    @contextmanager
    def lease(self, name: str, version: str | None = None) -> Iterator[Model]:
        """A model that stays loaded while it is used. Raises NotFound."""
        model = self.get(name, version)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1

    def get(self, name: str, version: str | None = None) -> Model:
        """A model; without a version the newest. Raises NotFound with what there is."""
        versions = self._models.get(name)
        if not versions:
            raise NotFound(f"There is no model {name!r}; there are: {', '.join(self.names) or 'none'}")
        if not version:
            return next(reversed(versions.values()))
        if version not in versions:
            there = ", ".join(self.versions(name))
            raise NotFound(f"There is no version {version!r} of {name}; there are: {there}")
        return versions[version]

    @property
    def names(self) -> list[str]:
        """Names of the models that serve."""
        return sorted(self._models)

    def versions(self, name: str) -> list[str]:
        """Versions of a model that serve, oldest first; numbers in them compare as numbers."""
        return list(self._models.get(name, {}))

    def index(self) -> list[dict[str, Any]]:
        """Every version that serves or was refused, with the reason."""
        serving = [
            {"name": name, "version": version, "state": "READY", "reason": ""}
            for name in self.names
            for version in self.versions(name)
        ]
        refused = [
            {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason}
            for (name, version), reason in sorted(self._refused.items())
        ]
        return serving + refused

    def _tell(self, event: str, detail: str) -> None:
        """Logs a trouble once, not at every look."""
        if detail != self._told:
            log.error(event, detail=detail)
        self._told = detail

    async def _take_in(self, found: Found) -> None:
        key = found.name, found.version
        # Whatever comes of it, the same files are not tried again.
        self._fingerprints[key] = found.fingerprint
        started = time.monotonic()
        try:
            artefact = await asyncio.to_thread(self._source.fetch, found)
            model = await asyncio.to_thread(Model, artefact, self._threads_per_run)
            await self._prepare(model)
        except ConfigurationError as error:
            self._refused[key] = error.detail
            if key not in self._serving():
                MODEL_READY.labels(*key).set(0)
            log.error("model_refused", model=str(found), detail=error.detail)
            return
        self._refused.pop(key, None)
        serving = self._models.get(found.name, {})
        old = serving.get(found.version)
        there = {**serving, found.version: model}
        self._models[found.name] = {version: there[version] for version in sorted(there, key=_natural)}
        MODEL_READY.labels(*key).set(1)
        log.info(
            "model_loaded",
            model=str(found),
            batches=model.batches,
            took_s=round(time.monotonic() - started, 2),
        )
        if old:
            self._drain(old)

    async def _prepare(self, model: Model) -> None:
        """The canary over every bucket of lengths, which warms them too, then the calibration of costs.

        Every run is an errand of its own, so that requests take turns with it.
        """
        for width in model.costs.widths:
            await self._runner.errand(functools.partial(model.check_canary, width))
        model.batches = self._always_batch or await self._runner.errand(model.is_exact_in_batches)
        # Nothing serves yet: all slots run at once, as they will under load.
        together = 1 if self._models else self._runner.slots
        points = {}
        for width in model.costs.widths:
            for rows in ROWS if model.batches else (1,):
                batch = model.probe(width, rows)
                took = [await self._measure(model, batch, together) for _ in range(REPEATS)]
                points[width, rows] = min(took)
        model.costs.fill(points)

    async def _measure(self, model: Model, batch: Any, together: int) -> float:
        runs = [self._runner.errand(lambda: timed_ms(lambda: model.run(batch))) for _ in range(together)]
        return statistics.mean(await asyncio.gather(*runs))

    def _serving(self) -> set[Key]:
        return {(name, version) for name, versions in self._models.items() for version in versions}

    def _retire(self, key: Key) -> None:
        del self._fingerprints[key]
        self._refused.pop(key, None)
        name, version = key
        MODEL_READY.remove(name, version)
        if model := self._models.get(name, {}).pop(version, None):
            self._drain(model)
        if not self._models.get(name):
            self._models.pop(name, None)

    def _drain(self, model: Model) -> None:
        async def drained() -> None:
            while model.users:  # noqa: ASYNC110 - a count in the hot path costs less than an event
                await asyncio.sleep(DRAIN_POLL_S)
            log.info("model_drained", model=str(model))

        task = asyncio.create_task(drained())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in version.split(".")]
