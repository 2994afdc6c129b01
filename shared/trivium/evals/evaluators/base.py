"""What every evaluator is: a dataclass of parameters that scores one answer against what was expected."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_evals.evaluators import Evaluator, EvaluatorContext

from trivium.errors import ConfigurationError
from trivium.evals.cases import Answered, Asked
from trivium.features import Feature
from trivium.patterns.steps import Backends

Expected = dict[str, Any]
Context = EvaluatorContext[Asked, Any, Any]
Scores = dict[str, bool | float]
Pair = tuple[Answered | None, Expected]
Summary = Callable[[Sequence[Pair]], float]


@dataclass(repr=False)
class Scorer(Evaluator[Asked, Any, Any]):
    """The base of our evaluators. `evaluate(ctx)` gives scores by metric: true and false, or numbers.

    Its dataclass fields are the parameters that a manifest may give.
    """

    metrics = ("",)
    """What it gives, where its parameters do not say."""

    @abstractmethod
    def evaluate(self, ctx: Context) -> Any:
        """The scores of one answer, by metric; or a coroutine that gives them."""

    def bind(self, feature: Feature, backends: Backends | None) -> None:
        """Called once, before the first case: checks what the parameters name; raises ConfigurationError."""

    def gives(self) -> tuple[str, ...]:
        """The metrics that it gives."""
        return self.metrics

    def summaries(self) -> dict[str, Summary]:
        """Metrics of all cases together that are no mean over them; a failed case has no answer."""
        return {}

    def files(self, feature: Feature) -> list[str]:
        """Paths, from the feature's folder, of what it reads: a change of theirs is one of the evaluation."""
        return []


def field_of(feature: Feature, given: str | None, who: str) -> str:
    """The output's field that is scored: the given one, or else the first that the schema demands.

    Raises:
        ConfigurationError: the output has no such field.
    """
    schema: Any = feature.manifest.output
    field = given or next(iter(schema.get("required") or schema.get("properties") or {}), None)
    place = "output"
    for part in (field or "").split("."):
        known: dict[str, Any] = schema.get("properties") or {}
        if part not in known:
            raise ConfigurationError(
                f"{feature.name}: evaluation.evaluators: {who}: field {field!r} is not a property "
                f"of {place}; there are {', '.join(known) or 'none'}"
            )
        schema, place = known[part], f"{place}.{part}"
        if _is_open(schema):
            break
    assert field
    return field


def _is_open(schema: Any) -> bool:
    """Whether a schema may have properties that it does not name."""
    if not isinstance(schema, dict):
        return True
    return "properties" not in schema and "object" in (schema.get("type") or "object")


def same(one: Any, other: Any) -> bool:
    """Whether both are the same JSON: `1` is `1.0`, but not `true`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def at(value: Any, path: str) -> Any:
    """What a dotted path leads to; None where it leads nowhere."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def text_at(value: Any, path: str) -> str:
    """The same as text; empty where there is none."""
    found = at(value, path)
    return "" if found is None else found if isinstance(found, str) else str(found)
