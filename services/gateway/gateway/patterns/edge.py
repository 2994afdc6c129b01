"""Pattern `edge`: a small model of our own, on the edge model service."""

from typing import Any

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.manifest import EdgeVariant
from trivium.edge import EdgeClient
from trivium.errors import LowConfidence

OUTPUTS = ("label", "confidence", "embedding")


class EdgeStep:
    """One edge variant. Its output has those of the model's outputs that the feature's schema names."""

    def __init__(self, spec: EdgeVariant, output_schema: dict[str, Any], client: EdgeClient) -> None:
        self._spec = spec
        self._client = client
        self._named = [name for name in OUTPUTS if name in output_schema.get("properties", {})]
        self._asked = sorted({*self._named, "confidence"})

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Asks the model; raises LowConfidence below the variant's `min_confidence`."""
        text = str(question.input.get(self._spec.text_field, ""))
        prediction = await self._client.predict(self._spec.model, [text], self._asked, seconds)
        values = {name: rows[0] for name, rows in prediction.outputs.items()}
        confidence = float(values["confidence"])
        if confidence < self._spec.min_confidence:
            raise LowConfidence(
                f"{prediction.model} is {confidence:.2f} sure, under {self._spec.min_confidence}"
            )
        output = {name: values[name] for name in self._named}
        return StepAnswer(output, confidence=round(confidence, 4), model=prediction.model)
