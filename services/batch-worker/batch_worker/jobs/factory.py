"""Which job computes a chunk."""

from dataclasses import dataclass

from batch_worker.jobs.batch_api import BatchApiJob
from batch_worker.jobs.job import AWAY_CODES, Job
from batch_worker.jobs.neighbours import NeighboursJob, Spaces
from batch_worker.jobs.template import TemplateJob
from batch_worker.jobs.variants import VariantsJob
from trivium.domain.breaker import Breakers
from trivium.domain.variants import EdgeVariant, PrecomputedVariant
from trivium.errors import ConfigurationError
from trivium.features import Catalogue, Feature, LoadedVariant
from trivium.llm.batches import BatchProvider
from trivium.patterns.api import ApiStep
from trivium.patterns.steps import Backends, steps_of
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository, Claim

# Entities between two checkpoints where each is a call of its own.
API_ROWS = 16


@dataclass(frozen=True, slots=True)
class JobFactory:
    """Makes jobs out of what the worker has."""

    catalogue: Catalogue
    backends: Backends
    breakers: Breakers
    archive: ArchiveRepository
    spaces: Spaces
    api_at_once: int
    batches: dict[str, BatchProvider]
    chunks: ChunkRepository
    batch_poll_s: float

    def job(self, claim: Claim, feature: Feature, variant: LoadedVariant) -> Job:
        """The job of a chunk in the phase that computes."""
        spec = self.spec_of(variant)
        if spec.compute.neighbours:
            return self.neighbours(feature, variant)
        if spec.compute.template is not None:
            return TemplateJob(feature, spec)
        one_by_one = self._variants(feature, spec)
        alone = claim.source["kind"] == "refresh" or (claim.cursor or {}).get("one_by_one")
        if not spec.compute.batch_api or alone:
            return one_by_one
        return self._batch(feature, spec, one_by_one)

    def neighbours(self, feature: Feature, variant: LoadedVariant) -> NeighboursJob:
        """The job of a variant over neighbours, in any phase."""
        back = self.backends
        return NeighboursJob(self.spec_of(variant), self.archive, back.results, back.edge, self.spaces)

    @staticmethod
    def spec_of(variant: LoadedVariant) -> PrecomputedVariant:
        """What the manifest says of it."""
        assert isinstance(variant.spec, PrecomputedVariant)
        return variant.spec

    def _batch(self, feature: Feature, spec: PrecomputedVariant, one_by_one: VariantsJob) -> BatchApiJob:
        first = one_by_one.steps[0]
        vendor = first.target.partition("/")[0]
        if vendor not in self.batches:
            raise ConfigurationError(
                f"{feature.name}: batch_api needs a vendor with a batch API and its key, not {first.target} "
                f"(there are {', '.join(self.batches) or 'none'})"
            )
        assert isinstance(first.ask, ApiStep)
        return BatchApiJob(
            feature, first, first.ask, self.batches[vendor], self.chunks, self.batch_poll_s, spec.chunk_rows
        )

    def _variants(self, feature: Feature, spec: PrecomputedVariant) -> VariantsJob:
        names = spec.compute.variants or []
        steps = [step for name in names for step in steps_of(feature, name, self.backends)]
        if not steps:
            raise ConfigurationError(
                f"{feature.name}: no provider of {', '.join(names)} is configured in the worker"
            )
        edge_only = all(isinstance(feature.variants[name].spec, EdgeVariant) for name in names)
        return VariantsJob(
            feature,
            steps,
            self.breakers,
            self.api_at_once,
            self.backends.tariff,
            AWAY_CODES,
            rows=spec.chunk_rows if edge_only else API_ROWS,
        )
