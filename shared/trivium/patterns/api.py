"""Pattern `api`: a foundation model, called in the request."""

from contextlib import aclosing
from typing import Any

import orjson

from trivium.domain.inference import Listener, Question, StepAnswer
from trivium.domain.route import Timeouts
from trivium.domain.variants import ApiVariant
from trivium.errors import ManifestError, RequestRefused, SchemaViolation
from trivium.features import LoadedVariant
from trivium.llm.prompts import Prompt
from trivium.llm.provider import Chat, Completion, Limits, Message, Provider, asked, text_of, with_usage

_REPAIR = (
    "Your answer was not accepted: {why}\nAnswer once more, with the JSON object alone, and put that right."
)
_MAX_SHOWN = 8_000


class ApiStep:
    """One model of one variant."""

    def __init__(
        self,
        variant: LoadedVariant,
        provider: Provider,
        model: str,
        input_schema: dict[str, Any] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        assert isinstance(variant.spec, ApiVariant)
        self._spec = variant.spec
        self._schema = variant.response_schema
        self._prompt = Prompt(variant.prompt or "", variant.spec.prompt, input_schema)
        self._provider = provider
        self._model = model
        self._timeouts = timeouts or Timeouts()

    def render(self, given: dict[str, Any]) -> list[Message]:
        """The prompt for an input; raises RequestRefused if it names a field that the input lacks."""
        try:
            return self._prompt.render(given)
        except ManifestError as error:
            raise RequestRefused(error.detail) from error

    async def __call__(self, question: Question, seconds: float) -> StepAnswer:
        """Asks the model; its text must be a JSON object."""
        return await self._ask(self.request(question.input), question.listener, seconds)

    async def repair(self, question: Question, violation: SchemaViolation, seconds: float) -> StepAnswer:
        """Asks once more, told what was wrong with the answer."""
        chat = self.request(question.input)
        said = str(violation.answered)[:_MAX_SHOWN]
        turns = [
            *chat.body["messages"],
            {"role": "assistant", "content": said},
            {"role": "user", "content": _REPAIR.format(why=violation.detail[:1_000])},
        ]
        again = Chat(chat.model, {**chat.body, "messages": turns})
        return await self._ask(again, question.listener, seconds)

    async def _ask(self, chat: Chat, listener: Listener | None, seconds: float) -> StepAnswer:
        if listener is None:
            return self.answer(await self._provider.complete(chat, self.limits(seconds)))
        listener.begins(f"{self._provider.name}/{self._model}")
        text, finish, model, usage = "", "", self._model, None
        async with aclosing(self._provider.stream(chat, self.limits(seconds))) as pieces:
            async for piece in pieces:
                if new := piece.delta.get("content"):
                    text += new
                    listener.says(new)
                finish = piece.finish_reason or finish
                model = str(piece.body.get("model") or model)[:128]
                usage = piece.usage or usage
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return self.answer(Completion({"choices": [choice]}, model, usage))

    def limits(self, seconds: float) -> Limits:
        """What a call with so many seconds may take."""
        own = self._timeouts
        return Limits(min(seconds, own.total_s), own.connect_s, own.first_token_s, own.idle_s)

    def request(self, given: dict[str, Any]) -> Chat:
        """What the model is asked for an input."""
        return asked(
            self._model,
            self.render(given),
            self._schema,
            self._spec.temperature,
            self._spec.max_output_tokens,
        )

    def answer(self, completion: Completion) -> StepAnswer:
        """What a completion answers; raises SchemaViolation, with the usage, if that is no JSON object."""
        text = text_of(completion, self._model)
        try:
            output = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise _violated(f"{self._model} did not answer in JSON: {error}", text, completion) from error
        if "\0" in text or "\\u0000" in text:
            raise _violated(f"{self._model} answered with a null character", text, completion)
        if not isinstance(output, dict):
            raise _violated(f"{self._model} answered with {type(output).__name__}", text, completion)
        return StepAnswer(output, model=completion.model, usage=completion.usage)


def _violated(detail: str, text: str, completion: Completion) -> SchemaViolation:
    violation = SchemaViolation(detail)
    violation.answered = text
    with_usage(violation, completion.usage)
    return violation
