"""The import of a run's entities from where its manifest or its starter says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from batch_worker.settings import WorkerSettings
from trivium.domain.variants import PrecomputedVariant, SqlSource
from trivium.errors import ConfigurationError
from trivium.features import Feature, LoadedVariant, file_source
from trivium.precompute import sources
from trivium.precompute.allowed import below
from trivium.precompute.importing import Importer, refuse_bad_lines
from trivium.precompute.records import Checker
from trivium.precompute.sources import Portion
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import Claim


@dataclass(frozen=True, slots=True)
class Imports:
    """Imports the entities of runs whose records this worker can read itself."""

    settings: WorkerSettings
    archive: ArchiveRepository
    importer: Importer

    async def run(self, claim: Claim, feature: Feature, variant: LoadedVariant) -> None:
        """Imports on from where the import stopped.

        Raises:
            ConfigurationError: the source cannot be read, so the run cannot go on.
            InvalidRequest: it is strict, and a line is wrong.
        """
        spec = variant.spec
        assert isinstance(spec, PrecomputedVariant)
        if claim.source.get("strict") and claim.cursor is None:
            await refuse_bad_lines(self._portions(claim, feature, spec, {}))
        await self.importer.run(claim, spec, self._portions(claim, feature, spec, claim.cursor or {}))

    def _portions(
        self, claim: Claim, feature: Feature, spec: PrecomputedVariant, place: dict[str, Any]
    ) -> AsyncIterator[Portion]:
        checker = Checker(feature, spec)
        rows, kind = spec.chunk_rows, claim.source["kind"]
        if kind == "archive":
            return sources.of_archive(self.archive, spec.archive, rows, str(place.get("after", "")))
        if kind == "url":
            source, line = claim.source, int(place.get("line", 0))
            return sources.of_url(source["url"], checker, rows, line, source.get("within"))
        if kind != "source":
            line = int(place.get("line", 0))
            raise ConfigurationError(f"the {kind} was cut short after {line} lines; send it again")
        if isinstance(spec.source, SqlSource):
            known = self.settings.source_connections
            if spec.source.connection not in known:
                names = ", ".join(known) or "none"
                raise ConfigurationError(
                    f"TRIVIUM_SOURCE_CONNECTIONS has no {spec.source.connection!r}; it has {names}"
                )
            url = known[spec.source.connection].get_secret_value()
            return sources.of_query(url, spec.source.sql, checker, rows, place.get("after"))
        if spec.source is None:
            raise ConfigurationError(f"{feature.name}: the variant has no source")
        line = int(place.get("line", 0))
        if path := file_source(spec, feature.folder):
            return sources.of_url(str(path.resolve()), checker, rows, line, str(feature.folder.resolve()))
        try:
            within = below(spec.source, self.settings.source_urls)
        except ValueError as error:
            raise ConfigurationError(f"{feature.name}: source {spec.source!r} {error}") from error
        return sources.of_url(spec.source, checker, rows, line, within)
