"""Pattern `edge`: a small model of our own, on the edge model service."""

from typing import Any

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.variants import EdgeVariant
from trivium.edge import EdgeClient
from trivium.errors import LowConfidence, OutOfScope, StepError

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
        (answer,) = await self.ask_many([question.input], seconds)
        if isinstance(answer, StepError):
            raise answer
        return answer

    async def ask_many(self, inputs: list[dict[str, Any]], seconds: float) -> list[StepAnswer | StepError]:
        """Asks for many inputs in one call; an entry each, which may be an OutOfScope or LowConfidence.

        Raises:
            StepError: the call failed as a whole.
        """
        texts = [str(given.get(self._spec.text_field, "")) for given in inputs]
        prediction = await self._client.predict(self._spec.model, texts, self._asked, seconds)
        columns = [prediction.outputs[name] for name in self._asked]
        return [
            self._judge(dict(zip(self._asked, values, strict=True)), prediction.model)
            for values in zip(*columns, strict=True)
        ]

    def _judge(self, values: dict[str, Any], model: str) -> StepAnswer | StepError:
        confidence, in_scope = float(values["confidence"]), float(values["in_scope"])
        if in_scope < self._spec.min_in_scope:
            return OutOfScope(
                f"{model} gives it {in_scope:.2f} of being in scope, under {self._spec.min_in_scope}"
            )
        if confidence < self._spec.min_confidence:
            return LowConfidence(f"{model} is {confidence:.2f} sure, under {self._spec.min_confidence}")
        output = {name: values[name] for name in self._named}
        return StepAnswer(output, confidence=round(confidence, 4), model=model)
