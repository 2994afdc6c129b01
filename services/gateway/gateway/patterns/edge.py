"""Pattern `edge`: a small model of our own, on the edge model service."""

from typing import Any

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.manifest import EdgeVariant
from trivium.edge import EdgeClient
from trivium.errors import LowConfidence, OutOfScope

OUTPUTS = ("label", "confidence", "in_scope", "embedding")


class EdgeStep:
    """One edge variant. Its output has those of the model's outputs that the feature's schema names."""

    def __init__(self, spec: EdgeVariant, output_schema: dict[str, Any], client: EdgeClient) -> None:
        self._spec = spec
        self._client = client
        self._named = [name for name in OUTPUTS if name in output_schema.get("properties", {})]
        self._asked = sorted({*self._named, "confidence", "in_scope"})

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Asks the model.

        Raises:
            OutOfScope: below the variant's `min_in_scope`. LowConfidence: below its `min_confidence`.
        """
        text = str(question.input.get(self._spec.text_field, ""))
        prediction = await self._client.predict(self._spec.model, [text], self._asked, seconds)
        values = {name: rows[0] for name, rows in prediction.outputs.items()}
        confidence, in_scope = float(values["confidence"]), float(values["in_scope"])
        if in_scope < self._spec.min_in_scope:
            raise OutOfScope(
                f"{prediction.model} gives it {in_scope:.2f} of being in scope, "
                f"under {self._spec.min_in_scope}"
            )
        if confidence < self._spec.min_confidence:
            raise LowConfidence(
                f"{prediction.model} is {confidence:.2f} sure, under {self._spec.min_confidence}"
            )
        output = {name: values[name] for name in self._named}
        return StepAnswer(output, confidence=round(confidence, 4), model=prediction.model)
