"""The model that judges: a provider's, or a route's targets, with the chain's retries and limits."""

import json
import sys
from typing import Any

from trivium.domain.breaker import Breaker, Breakers
from trivium.domain.fallback import Deadline, Walk
from trivium.domain.inference import ServedBy
from trivium.domain.manifest import validator_of
from trivium.domain.route import PREFIX
from trivium.errors import ConfigurationError, NotFound, SchemaViolation, StepError, Unavailable
from trivium.llm.provider import Chat, Completion, Limits, Message, asked, text_of
from trivium.llm.rescue import ChatStep
from trivium.patterns.steps import Backends

SECONDS = 60.0
MAX_TOKENS = 300
RETRIES = 2


class JudgeModel:
    """A model by its name, `provider/model` or `route/name`.

    Raises:
        ConfigurationError: there is no such provider or route, or no key for it.
    """

    def __init__(self, name: str, backends: Backends) -> None:
        self.name = name
        self._backends = backends
        self._breakers = Breakers(_never_opens)
        self._steps()

    async def ask(self, messages: list[Message], schema: dict[str, Any]) -> dict[str, Any]:
        """The model's answer, which matches the schema but for the lengths of its texts.

        Raises:
            StepError: no target gave one.
        """
        expected = validator_of(_without_lengths(schema))
        chat = Chat(self.name, asked("", messages, schema, 0.0, MAX_TOKENS).body)

        def accept(completion: Completion) -> None:
            said = _object_of(completion, self.name)
            if fault := next(expected.iter_errors(said), None):
                raise SchemaViolation(f"the judge {self.name} answered {said}: {fault.message[:200]}")

        walk = Walk(chat, Deadline.after_ms(SECONDS * 1000), self._breakers, accept)
        steps = self._steps()
        position: int | None = 0
        error: StepError | None = None
        while position is not None:
            left = len(steps) - position
            outcome = await walk.ask(steps[position], walk.budget_of(steps[position], left), last=left == 1)
            if not isinstance(outcome, StepError):
                return _object_of(outcome, self.name)
            error = outcome
            position = walk.after(steps, position, outcome)
        assert error
        raise error

    def _steps(self) -> list[ChatStep]:
        """Those of a route in the order that is drawn for this question; else the one model."""
        if self.name.startswith(PREFIX):
            routes = self._backends.routes
            try:
                return routes.steps_of(routes.find(self.name), self.name)
            except (NotFound, Unavailable) as error:
                raise ConfigurationError(error.detail) from error
        vendor, _, model = self.name.partition("/")
        provider = self._backends.providers.get(vendor)
        if provider is None:
            known = ", ".join(self._backends.providers)
            raise ConfigurationError(f"provider {vendor} is not configured; there are {known}")

        async def ask(chat: Chat, seconds: float) -> Completion:
            return await provider.complete(Chat(model, chat.body), Limits(seconds))

        by = ServedBy("judge", "api", model=model)
        return [ChatStep(by, self.name, ask, retries=RETRIES, granted_s=SECONDS)]


def _object_of(completion: Completion, name: str) -> dict[str, Any]:
    text = text_of(completion, name)
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise SchemaViolation(f"the judge {name} did not answer in JSON: {text[:200]}") from error
    if not isinstance(said, dict):
        raise SchemaViolation(f"the judge {name} did not answer with an object: {text[:200]}")
    return said


def _without_lengths(schema: dict[str, Any]) -> dict[str, Any]:
    """They keep a small model from talking on; who says more by other means has judged all the same."""
    properties = {
        name: {key: value for key, value in of.items() if key != "maxLength"}
        for name, of in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _never_opens(target: str) -> Breaker:
    """Each answer is judged for itself: one that the judge failed on must not speak for those after it."""
    return Breaker(target, min_samples=sys.maxsize)
