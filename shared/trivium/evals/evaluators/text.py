"""Texts: what they contain, and how far they overlap with the expected one."""

import re
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

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it does."""
        assert self.field
        if self.any is None and self.all is None:
            wanted, one_of = [text_at(ctx.expected_output or {}, self.field)], []
        else:
            wanted, one_of = self.all or [], self.any or []
        text = self._folded(text_at(ctx.output.output, self.field))
        has_all = all(self._folded(part) in text for part in wanted)
        return {
            self.name: has_all and (not one_of or any(self._folded(part) in text for part in one_of)),
        }

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


@dataclass(repr=False)
class Regex(Scorer):
    """`regex`: a pattern is found in a field."""

    pattern: str
    field: str | None = None
    name: str = "regex"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Checks the pattern and finds the field."""
        self.field = field_of(feature, self.field, self.name)
        try:
            self._pattern = re.compile(self.pattern)
        except re.error as error:
            raise ConfigurationError(
                f"{feature.name}: evaluation.evaluators: {self.name}: pattern {self.pattern!r}: {error}"
            ) from error

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it is found."""
        assert self.field
        return {self.name: bool(self._pattern.search(text_at(ctx.output.output, self.field)))}


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
