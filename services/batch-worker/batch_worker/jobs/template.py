"""Results that were computed elsewhere: the output is taken from the record itself."""

from dataclasses import dataclass

from trivium.domain.fallback import fill_static
from trivium.domain.precompute import Batch, Dead, Item, Result
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import SchemaViolation
from trivium.features import Feature
from trivium.store.chunks import Claim


@dataclass(frozen=True, slots=True)
class TemplateJob:
    """Fills a variant's template."""

    feature: Feature
    spec: PrecomputedVariant
    rows: int = 10_000

    async def compute(self, claim: Claim, items: list[Item]) -> Batch:
        """See the Protocol; an output that does not match the feature's schema is dead."""
        template = self.spec.compute.template
        made = Batch()
        for item in items:
            output = fill_static(template, item.record)
            try:
                self.feature.check_output(output)
            except SchemaViolation as error:
                made.dead.append(Dead(item.entity_key, item.input_hash, error.code, error.detail))
            else:
                made.results.append(Result(item, output))
        return made
