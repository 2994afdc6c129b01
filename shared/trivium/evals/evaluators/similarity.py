"""How near two texts' embeddings are."""

from dataclasses import dataclass

from trivium.edge import EdgeClient
from trivium.errors import ConfigurationError
from trivium.evals.evaluators.base import Context, Scorer, Scores, field_of, text_at
from trivium.features import Feature
from trivium.patterns.steps import Backends


@dataclass(repr=False)
class Similarity(Scorer):
    """`similarity`: the cosine of a field's embedding and the expected one's, by the edge model, -1 to 1."""

    field: str | None = None
    model: str | None = None
    name: str = "similarity"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Finds the field and the model: the given one, or else one that the feature uses."""
        self.field = field_of(feature, self.field, self.name)
        self.model = self.model or feature.manifest.embedding_model
        if self.model is None:
            raise ConfigurationError(
                f"{feature.name}: evaluation.evaluators: {self.name}: model: name the edge model that embeds"
            )
        self._edge: EdgeClient | None = backends.edge if backends else None

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    async def evaluate(self, ctx: Context) -> Scores:
        """Asks the edge model; an empty text is like none."""
        assert self.field
        assert self.model
        assert self._edge, "bound without backends"
        texts = [text_at(ctx.output.output, self.field), text_at(ctx.expected_output or {}, self.field)]
        if not all(text.strip() for text in texts):
            return {self.name: 0.0}
        ours, theirs = await self._edge.embed(self.model, texts)
        return {self.name: sum(a * b for a, b in zip(ours, theirs, strict=True))}
