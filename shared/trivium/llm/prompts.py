"""Prompts: Markdown files whose `## system`, `## user` and `## assistant` sections are turns."""

import re
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trivium.errors import ManifestError
from trivium.llm.provider import Message, Role

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_HEADING = re.compile(r"^## (\w+)[ \t]*$", re.MULTILINE)
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


class Prompt:
    """A parsed prompt.

    The sections are told apart before the input is filled in, so a customer who writes `## system`
    stays a customer.
    """

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        parts = _HEADING.split(text)
        if parts[0].strip() or len(parts) < 3:
            raise ManifestError(f"{source}:1: a prompt starts with '## system' or '## user'")
        self._turns: list[tuple[Role, Template]] = []
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            role = _ROLES.get(name)
            if role is None:
                known = ", ".join(_ROLES)
                raise ManifestError(f"{source}: '## {name}' is no role; there are {known}")
            try:
                self._turns.append((role, _ENVIRONMENT.from_string(body.strip())))
            except TemplateError as error:
                raise ManifestError(f"{source}: {error}") from error

    def render(self, given: dict[str, Any]) -> list[Message]:
        """Fills the input's fields in.

        Raises:
            ManifestError: the prompt names a field that is absent, or does what a sandbox forbids.
        """
        try:
            return [Message(role, template.render(given)) for role, template in self._turns]
        except TemplateError as error:
            raise ManifestError(f"{self._source}: {error}") from error
