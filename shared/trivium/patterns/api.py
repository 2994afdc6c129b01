"""Pattern `api`: a foundation model, called in the request."""

from typing import Any

import orjson

from trivium.domain.inference import Question, StepAnswer
from trivium.domain.manifest import ApiVariant
from trivium.errors import ManifestError, RequestRefused, SchemaViolation
from trivium.features import LoadedVariant
from trivium.llm.prompts import Prompt
from trivium.llm.provider import Completion, CompletionRequest, Message, Provider, with_usage


class ApiStep:
    """One model of one variant."""

    def __init__(self, variant: LoadedVariant, provider: Provider, model: str) -> None:
        assert isinstance(variant.spec, ApiVariant)
        self._spec = variant.spec
        self._schema = variant.response_schema
        self._prompt = Prompt(variant.prompt or "", variant.spec.prompt)
        self._provider = provider
        self._model = model

    def render(self, given: dict[str, Any]) -> list[Message]:
        """The prompt for an input; raises RequestRefused if it names a field that the input lacks."""
        try:
            return self._prompt.render(given)
        except ManifestError as error:
            raise RequestRefused(error.detail) from error

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Asks the model; its text must be a JSON object."""
        return self.answer(await self._provider.complete(self.request(question.input), seconds))

    def request(self, given: dict[str, Any]) -> CompletionRequest:
        """What the model is asked for an input."""
        return CompletionRequest(
            model=self._model,
            messages=self.render(given),
            schema=self._schema,
            temperature=self._spec.temperature,
            max_output_tokens=self._spec.max_output_tokens,
        )

    def answer(self, completion: Completion) -> StepAnswer:
        """What a completion answers; raises SchemaViolation, with the usage, if that is no JSON object."""
        try:
            output = orjson.loads(completion.text)
        except orjson.JSONDecodeError as error:
            violation = SchemaViolation(f"{self._model} did not answer in JSON: {error}")
            raise with_usage(violation, completion.usage) from error
        if "\0" in completion.text or "\\u0000" in completion.text:
            violation = SchemaViolation(f"{self._model} answered with a null character")
            raise with_usage(violation, completion.usage)
        if not isinstance(output, dict):
            violation = SchemaViolation(f"{self._model} answered with {type(output).__name__}")
            raise with_usage(violation, completion.usage)
        return StepAnswer(output, model=completion.model, usage=completion.usage)
