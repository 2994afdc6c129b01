"""Texts: what they contain, and how far they overlap with the expected one."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq

from trivium.errors import ConfigurationError
from trivium.evals.evaluators.base import Context, Scorer, Scores, field_of, text_at
from trivium.features import Feature
from trivium.patterns.steps import Backends

_WORD = re.compile(r"\w+")


@dataclass(repr=False)
class Contains(Scorer):
    """`contains`: a field has all of `all` in it, and one of `any`; by default the expected text."""

    field: str | None = None
    any: list[str] | None = None
    all: list[str] | None = None
    ignore_case: bool = True
    name: str = "contains"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Finds the field."""
        self.field = field_of(feature, self.field, self.name)
        _check_lists(feature, self.name, self.any, self.all)

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it does; a text that is not expected to have anything in it has not."""
        assert self.field
        all_of = self.all
        if self.any is None and self.all is None:
            expected = text_at(ctx.expected_output or {}, self.field)
            if not expected:
                return {self.name: False}
            all_of = [expected]
        text = self._folded(text_at(ctx.output.output, self.field))
        return {self.name: _fits(lambda part: self._folded(part) in text, self.any, all_of)}

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


@dataclass(repr=False)
class Regex(Scorer):
    """`regex`: a pattern is found in a field; or all of `all`, and one of `any`."""

    pattern: str | None = None
    any: list[str] | None = None
    all: list[str] | None = None
    field: str | None = None
    ignore_case: bool = False
    name: str = "regex"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Checks the patterns and finds the field."""
        self.field = field_of(feature, self.field, self.name)
        where = f"{feature.name}: evaluation.evaluators: {self.name}"
        _check_lists(feature, self.name, self.any, self.all)
        all_of = [*([] if self.pattern is None else [self.pattern]), *(self.all or [])]
        if not all_of and self.any is None:
            raise ConfigurationError(f"{where}: pattern is missing; or give `any` or `all`")
        flags = re.IGNORECASE if self.ignore_case else re.NOFLAG
        self._patterns: dict[str, re.Pattern[str]] = {}
        for pattern in (*all_of, *(self.any or [])):
            try:
                self._patterns[pattern] = re.compile(pattern, flags)
            except re.error as error:
                raise ConfigurationError(f"{where}: pattern {pattern!r}: {error}") from error
        self._all = all_of

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it is found."""
        assert self.field
        text = text_at(ctx.output.output, self.field)
        found = _fits(lambda part: bool(self._patterns[part].search(text)), self.any, self._all)
        return {self.name: found}


@dataclass(repr=False)
class RougeL(Scorer):
    """`rouge_l`: F1 of the longest common subsequence of words, 0 to 1, without stemming.

    Lin, ROUGE: A package for automatic evaluation of summaries (2004), with equal weight of precision and
    recall. Words are runs of letters, digits and underscores, in lower case.
    """

    field: str | None = None
    name: str = "rouge_l"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Finds the field."""
        self.field = field_of(feature, self.field, self.name)

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """The overlap."""
        assert self.field
        got, wanted = text_at(ctx.output.output, self.field), text_at(ctx.expected_output or {}, self.field)
        return {self.name: rouge_l(got, wanted)}


def rouge_l(got: str, wanted: str) -> float:
    """The F1 of two texts' longest common subsequence of words; 0 if one has none."""
    ours, theirs = words_of(got), words_of(wanted)
    if not ours or not theirs:
        return 0.0
    common = LCSseq.similarity(ours, theirs)
    return 2 * common / (len(ours) + len(theirs))


def words_of(text: str) -> list[str]:
    """A text's words in lower case."""
    return _WORD.findall(text.lower())


def _check_lists(feature: Feature, who: str, any_of: list[str] | None, all_of: list[str] | None) -> None:
    for name, given in (("any", any_of), ("all", all_of)):
        if given is not None and not given:
            raise ConfigurationError(f"{feature.name}: evaluation.evaluators: {who}: {name} is empty")


def _fits(found: Callable[[str], bool], any_of: list[str] | None, all_of: list[str] | None) -> bool:
    return all(map(found, all_of or [])) and (any_of is None or any(map(found, any_of)))
