"""Right or wrong: the whole output, a label, a number, a schema."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from trivium.domain.manifest import check_schema, validator_of
from trivium.errors import ConfigurationError
from trivium.evals.evaluators.base import (
    Context,
    Expected,
    Pair,
    Scorer,
    Scores,
    Summary,
    at,
    field_of,
    same,
)
from trivium.features import Feature
from trivium.patterns.steps import Backends


@dataclass(repr=False)
class Exact(Scorer):
    """`exact`: the output is the expected one; with `field`, that field of it is."""

    field: str | None = None
    name: str = "exact"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Checks the field."""
        if self.field:
            field_of(feature, self.field, self.name)

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether both are the same JSON."""
        expected: Expected = ctx.expected_output or {}
        if self.field:
            return {self.name: same(at(ctx.output.output, self.field), at(expected, self.field))}
        return {self.name: same(ctx.output.output, expected)}


@dataclass(repr=False)
class Accuracy(Scorer):
    """`accuracy`: a field of the output is the expected label; over all cases also `macro_f1`."""

    field: str | None = None
    name: str = "accuracy"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Finds the field."""
        self.field = field_of(feature, self.field, self.name)

    def gives(self) -> tuple[str, ...]:
        """Its name, and macro_f1."""
        return (self.name, *self.summaries())

    def evaluate(self, ctx: Context) -> Scores:
        """Whether the label is right."""
        assert self.field
        return {self.name: same(at(ctx.output.output, self.field), at(ctx.expected_output or {}, self.field))}

    def summaries(self) -> dict[str, Summary]:
        """The mean of the labels' F1, each label weighing the same."""
        suffix = "" if self.name == "accuracy" else f"_{self.name}"
        return {f"macro_f1{suffix}": self._macro_f1}

    def _macro_f1(self, pairs: Sequence[Pair]) -> float:
        assert self.field
        right: Counter[Any] = Counter()
        said: Counter[Any] = Counter()
        wanted: Counter[Any] = Counter()
        for answered, expected in pairs:
            truth = str(at(expected, self.field))
            wanted[truth] += 1
            if answered is None:
                continue
            label = str(at(answered.output, self.field))
            said[label] += 1
            right[label] += label == truth
        # 2 right / (said + wanted) is the harmonic mean of precision and recall; labels that are expected
        # nowhere have no recall, and count only by the precision that they cost others.
        scores = [2 * right[label] / (said[label] + wanted[label]) for label in wanted]
        return sum(scores) / len(scores) if scores else 0.0


@dataclass(repr=False)
class Numeric(Scorer):
    """`numeric`: a field is within `absolute`, or `relative` times the expected number, of it."""

    field: str | None = None
    absolute: float = 0.0
    relative: float = 0.0
    name: str = "numeric"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Finds the field."""
        self.field = field_of(feature, self.field, self.name)
        if self.absolute < 0 or self.relative < 0:
            raise ConfigurationError(
                f"{feature.name}: evaluation.evaluators: {self.name}: a tolerance is < 0"
            )

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it is near enough; what is no number is not."""
        assert self.field
        got, wanted = at(ctx.output.output, self.field), at(ctx.expected_output or {}, self.field)
        if not _is_number(got) or not _is_number(wanted):
            return {self.name: False}
        # In decimals, as they are written: 1.1 is within 0.1 of 1, which it is not in binary.
        off, most = abs(_decimal(got) - _decimal(wanted)), _decimal(self.relative) * abs(_decimal(wanted))
        return {self.name: off <= max(_decimal(self.absolute), most)}


@dataclass(repr=False)
class JsonSchema(Scorer):
    """`json_schema`: the output matches a schema, stricter than the feature's own perhaps.

    It is written out, or a file of the feature's folder.
    """

    schema: dict[str, Any] | None = None
    file: str | None = None
    name: str = "json_schema"

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Reads and checks the schema."""
        where = f"{feature.name}: evaluation.evaluators: {self.name}"
        if (self.schema is None) == (self.file is None):
            raise ConfigurationError(f"{where}: give either `schema` or `file`")
        schema, source = (self.schema, "schema") if self.file is None else self._read(feature, where)
        if not isinstance(schema, dict):
            raise ConfigurationError(f"{where}: {source} is not an object")
        if fault := check_schema(schema):
            raise ConfigurationError(f"{where}: {source}: {fault}")
        self._validator = validator_of(schema)

    def _read(self, feature: Feature, where: str) -> tuple[Any, str]:
        path = feature.folder / str(self.file)
        source = f"file: {path}"
        try:
            return json.loads(path.read_text(encoding="utf-8")), source
        except OSError as error:
            raise ConfigurationError(f"{where}: {source}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"{where}: {source}: not JSON: {error}") from error

    def gives(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def files(self, feature: Feature) -> list[str]:
        """The schema's, if it is a file."""
        return [self.file] if self.file else []

    def evaluate(self, ctx: Context) -> Scores:
        """Whether it matches."""
        return {self.name: self._validator.is_valid(ctx.output.output)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))
