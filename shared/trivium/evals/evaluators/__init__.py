"""Evaluators by name, and one's own by path; each gives one metric or more."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trivium.errors import ConfigurationError
from trivium.evals.evaluators.base import Scorer
from trivium.evals.evaluators.judge import Judge
from trivium.evals.evaluators.labels import Accuracy, Exact, JsonSchema, Numeric
from trivium.evals.evaluators.own import find_own, source_of, split
from trivium.evals.evaluators.similarity import Similarity
from trivium.evals.evaluators.text import Contains, Regex, RougeL
from trivium.features import Feature
from trivium.patterns.steps import Backends

BUILT_IN: Mapping[str, type[Scorer]] = {
    "accuracy": Accuracy,
    "contains": Contains,
    "exact": Exact,
    "json_schema": JsonSchema,
    "judge": Judge,
    "numeric": Numeric,
    "regex": Regex,
    "rouge_l": RougeL,
    "similarity": Similarity,
}
BY_METRIC = {"macro_f1": "accuracy"}
BY_METRIC |= {name: name for name in ("accuracy", "contains", "exact", "numeric", "rouge_l", "similarity")}
"""Of the metrics that a gate may name without `evaluators:` being given."""


def make_evaluators(feature: Feature, backends: Backends | None) -> list[Scorer]:
    """The evaluators of a feature's manifest, bound to it; without any, those whose metrics the gates name.

    Raises:
        ConfigurationError: there is no such evaluator, a parameter is wrong, two give the same metric, or a
            gate names a metric that none gives.
    """
    made = [(_named(spec)[0], _make(feature, spec)) for spec in _specs(feature)]
    metrics: list[str] = []
    for name, scorer in made:
        scorer.bind(feature, backends)
        where = f"{feature.name}: evaluation.evaluators"
        if not scorer.gives() or not all(scorer.gives()):
            raise ConfigurationError(f"{where}: {name}: it gives no metric; name them in `metrics`")
        for metric in scorer.gives():
            if metric in metrics:
                raise ConfigurationError(f"{where}: two give the metric {metric!r}; give one a name")
            metrics.append(metric)
    for gate in feature.manifest.evaluation.gates:
        if gate not in metrics:
            raise ConfigurationError(
                f"{feature.name}: evaluation.gates.{gate}: no evaluator gives it; there are "
                f"{', '.join(metrics) or 'none'}. Evaluators: {', '.join(BUILT_IN)}, or a path of your own"
            )
    return [scorer for _, scorer in made]


def evaluators_sha256(feature: Feature, scorers: list[Scorer]) -> str:
    """A hash of how a feature's answers are scored and gated: the manifest's words, the files behind them."""
    evaluation = feature.manifest.evaluation
    digest = hashlib.sha256()
    gates = {name: gate.model_dump() for name, gate in evaluation.gates.items()}
    digest.update(json.dumps([_specs(feature), gates], sort_keys=True).encode())
    paths = [path for scorer in scorers for path in scorer.files(feature)]
    names = [name for name, _ in map(_named, _specs(feature))]
    paths += [split(name)[0] for name in names if ".py:" in name]
    for path in sorted(set(paths)):
        digest.update((feature.folder / path).read_bytes())
    for name, scorer in zip(names, scorers, strict=True):
        if name not in BUILT_IN and ".py:" not in name:
            digest.update(source_of(type(scorer)))
    return digest.hexdigest()


def _specs(feature: Feature) -> list[str | dict[str, Any]]:
    given = feature.manifest.evaluation.evaluators
    if given:
        return list(given)
    return list(dict.fromkeys(BY_METRIC[g] for g in feature.manifest.evaluation.gates if g in BY_METRIC))


def _make(feature: Feature, spec: str | dict[str, Any]) -> Scorer:
    name, given = _named(spec)
    where = f"{feature.name}: evaluation.evaluators: {name}"
    kind = BUILT_IN.get(name) or find_own(feature, name, where, BUILT_IN)
    if not isinstance(given, dict):
        raise ConfigurationError(f"{where}: its parameters must be an object, not {given!r}")
    known = {one.name: one for one in fields(kind)}
    if unknown := [key for key in given if key not in known]:
        there = ", ".join(known) or "none"
        raise ConfigurationError(f"{where}: {unknown[0]!r} is no parameter; there are {there}")
    needed = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if missing := [key for key in needed if key not in given]:
        raise ConfigurationError(f"{where}: {missing[0]} is missing")
    return kind(**_checked(kind, given, where))


def _checked(kind: type[Scorer], given: dict[str, Any], where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    values = {}
    for key, value in given.items():
        try:
            values[key] = TypeAdapter(hints[key]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            told = error.errors()[0]["msg"]
            raise ConfigurationError(f"{where}: {key}: {told}, not {value!r}") from error
    return values


def _named(spec: str | dict[str, Any]) -> tuple[str, Any]:
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise ConfigurationError(
            f"evaluation.evaluators: {spec!r} must be a name, or one name with parameters"
        )
    ((name, given),) = spec.items()
    return name, {} if given is None else given


__all__ = ["BUILT_IN", "Judge", "Scorer", "evaluators_sha256", "make_evaluators"]
