"""Prompts: Markdown files whose `## system`, `## user` and `## assistant` sections are turns."""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes

from trivium.errors import ManifestError
from trivium.llm.prompt_language import METER, Absent, Hardened, Meter, PromptEnvironment, foreign
from trivium.llm.prompt_schema import Reading, type_of
from trivium.llm.prompt_tags import Tags
from trivium.llm.prompt_values import bounded
from trivium.llm.provider import Message, Role

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_HEADING = re.compile(r"^## (\w+)[ \t]*$", re.MULTILINE)
_ENVIRONMENT = PromptEnvironment()
# What a template's own arithmetic, look-ups and comparisons raise.
_FAILURES = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError),
)


class Prompt:
    """A parsed prompt.

    The sections are told apart before the input is filled in, so a customer who writes `## system`
    stays a customer; and what he writes neither opens nor closes a tag that the prompt itself has.
    With the schema of the input, the prompt reads nothing that the input cannot have.
    """

    def __init__(self, text: str, source: str, input_schema: dict[str, Any] | None = None) -> None:
        self.text = text
        self.source = source
        self._schema = input_schema or {}
        try:
            self._load(checked=input_schema is not None)
        except RecursionError as error:
            raise ManifestError(f"{source}:1: is nested too deeply") from error

    def _load(self, *, checked: bool) -> None:
        parsed = list(self._parse())
        trees = [tree for _, tree in parsed]
        self._refuse(fault for tree in trees for fault in foreign(tree))
        readings = [Reading(tree, self._schema) for tree in trees]
        if checked:
            self._refuse(fault for reading in readings for fault in reading.faults)
        self._names = frozenset().union(*(reading.names for reading in readings))
        may_lack = {id_ for reading in readings for id_ in reading.may_lack}
        self._tags = Tags(trees)
        self._turns = [(role, self._compile(tree, may_lack)) for role, tree in parsed]
        required = self._schema.get("required", ())
        optional = (self._schema.get("properties") or {}).keys() & self._names - set(required)
        self._absent = {name: Absent(name=name) for name in optional}

    @cached_property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def variables(self) -> dict[str, str]:
        """The types of what the prompt reads, by name; with a `?` if it may be absent."""
        known = self._schema.get("properties") or {}
        return {
            name: type_of(known.get(name)) + ("?" if name in self._absent else "")
            for name in sorted(self._names)
        }

    def render(self, given: dict[str, Any]) -> list[Message]:
        """Fills the input's fields in.

        Raises:
            ManifestError: the prompt names a field that is absent, does what a sandbox forbids, or is
                too long.
        """
        values = self._absent | {name: given[name] for name in self._names if name in given}
        values[METER] = Meter()
        return [Message(role, self._fill(template, values)) for role, template in self._turns]

    def _fill(self, template: Template, values: dict[str, Any]) -> str:
        parts: list[str] = []
        length = 0
        try:
            for part in template.generate(values):
                length += len(part)
                bounded(length)
                parts.append(part)
        except _FAILURES as error:
            raise ManifestError(f"{self.source}:{_line_of(error)}: {error}") from error
        return self._tags.guard("".join(parts))

    def _parse(self) -> Iterator[tuple[Role, nodes.Template]]:
        headings = list(_HEADING.finditer(self.text))
        if not headings or self.text[: headings[0].start()].strip():
            raise ManifestError(f"{self.source}:1: a prompt starts with '## system' or '## user'")
        ends = [*(heading.start() for heading in headings[1:]), len(self.text)]
        for heading, end in zip(headings, ends, strict=True):
            role = _ROLES.get(heading[1])
            if role is None:
                known = ", ".join(_ROLES)
                line = self.text.count("\n", 0, heading.start()) + 1
                raise ManifestError(f"{self.source}:{line}: '## {heading[1]}' is no role; there are {known}")
            yield role, self._parse_turn(heading.end(), end)

    def _parse_turn(self, start: int, end: int) -> nodes.Template:
        body = self.text[start:end]
        start += len(body) - len(body.lstrip())
        # Empty lines before it make Jinja's lines those of the file.
        above = "\n" * self.text.count("\n", 0, start)
        try:
            tree = _ENVIRONMENT.parse(above + body.strip())
        except TemplateSyntaxError as error:
            raise ManifestError(f"{self.source}:{error.lineno}: {error.message}") from error
        first = tree.body[0].nodes[0] if isinstance(tree.body[0], nodes.Output) else None
        if isinstance(first, nodes.TemplateData):
            first.data = first.data.removeprefix(above)
        return tree

    def _compile(self, tree: nodes.Template, may_lack: set[int]) -> Template:
        self._tags.mark(tree)
        Hardened(may_lack).visit(tree)
        tree.set_environment(_ENVIRONMENT)
        try:
            return _ENVIRONMENT.from_string(tree)
        except TemplateSyntaxError as error:
            raise ManifestError(f"{self.source}:{error.lineno}: {error.message}") from error
        except SyntaxError as error:  # of the Python that Jinja makes, which has a limit of its own
            raise ManifestError(f"{self.source}:1: {error.msg}") from error

    def _refuse(self, faults: Iterator[tuple[int, str]]) -> None:
        if told := sorted(faults):
            raise ManifestError("\n".join(f"{self.source}:{line}: {fault}" for line, fault in told))


def _line_of(error: BaseException) -> int:
    line = 1
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
