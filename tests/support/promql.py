"""What an expression asks of the metrics: its selectors, and the labels of what it gives."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client import Counter, Gauge, Histogram

import trivium.metrics

Labels = frozenset[str]
Schema = Mapping[str, Labels]
"""Labels by the name of a series."""
SCRAPED = frozenset({"job", "instance", "namespace"})
"""What a scrape adds to every series."""
RECORDED = frozenset({"namespace", "slo", "feature", "pattern", "handler"})
HTTP = {
    "http_requests_total": {"handler", "method", "status"},
    **{f"http_request_duration_seconds_{part}": {"handler", "method"} for part in ("sum", "count")},
    "http_request_duration_seconds_bucket": {"handler", "method", "le"},
}
PROCESS = (
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"),
    *("process_open_fds", "process_max_fds"),
)


def exported() -> Schema:
    """Every series that a service exports, with those of its HTTP server and of its process."""
    found: dict[str, Labels] = {name: frozenset(labels) | SCRAPED for name, labels in HTTP.items()}
    found |= dict.fromkeys(PROCESS, SCRAPED) | {"up": SCRAPED}
    for metric in vars(trivium.metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = frozenset(metric._labelnames) | SCRAPED
            if isinstance(metric, Histogram):
                found |= {f"{metric._name}_{part}": labels for part in ("sum", "count")}
                found[f"{metric._name}_bucket"] = labels | {"le"}
            else:
                found[metric._name + ("_total" if isinstance(metric, Counter) else "")] = labels
    return found


def recorded(rules: Iterable[Path]) -> Schema:
    """What these files of rules record, with all labels that any of it may have, and the alerts."""
    names = [rule["record"] for path in rules for rule in rules_of(path) if "record" in rule]
    return dict.fromkeys(names, RECORDED) | {"ALERTS": RECORDED | {"alertname", "alertstate", "severity"}}


def rules_of(path: Path) -> list[dict[str, Any]]:
    """Every rule of a file."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def filled(text: str, values: Mapping[str, str]) -> str:
    """An expression with its variables replaced, `$name` and `${name}`; an unknown one is a KeyError."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], text)


def selectors(text: str) -> Iterator[promql.VectorSelector]:
    """Every selector of an expression."""
    found: list[promql.VectorSelector] = []

    def visit(expr: promql.Expr) -> None:
        if isinstance(expr, promql.VectorSelector):
            found.append(expr)

    promql.walk(promql.parse(text), visit)
    yield from found


def check_labels(text: str, schema: Schema) -> Labels:
    """The labels of what an expression gives.

    Raises:
        AssertionError: a metric or a label is not exported, or two sides of an operator have no labels in
            common by which they could match.
        ValueError: it is no PromQL.
    """
    found = _labels_of(promql.parse(text), schema)
    return found if found is not None else frozenset()


def _labels_of(expr: Any, schema: Schema) -> Labels | None:
    """None for a scalar."""
    match expr:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels_of(expr.expr, schema)
        case promql.MatrixSelector():
            return _of_selector(expr.vector_selector, schema)
        case promql.VectorSelector():
            return _of_selector(expr, schema)
        case promql.AggregateExpr():
            return _of_aggregation(expr, schema)
        case promql.Call():
            return _of_call(expr, schema)
        case promql.BinaryExpr():
            return _of_operator(expr, schema)
    raise AssertionError(f"{type(expr).__name__} is not known here")


def _of_selector(expr: promql.VectorSelector, schema: Schema) -> Labels:
    assert expr.name and expr.name in schema, f"{expr.name} is not exported"
    for matcher in expr.matchers.matchers:
        assert matcher.name in schema[expr.name], f"{expr.name} has no label {matcher.name}"
    return schema[expr.name]


def _of_aggregation(expr: promql.AggregateExpr, schema: Schema) -> Labels:
    inner = _labels_of(expr.expr, schema)
    assert inner is not None
    if expr.modifier is None:
        return frozenset()
    named = frozenset(expr.modifier.labels)
    assert named <= inner, f"no label {', '.join(named - inner)} in {expr.expr.prettify()}"
    return named if expr.modifier.type == promql.AggModifierType.By else inner - named


def _of_call(expr: promql.Call, schema: Schema) -> Labels | None:
    name = expr.func.name
    if name in ("time", "vector", "scalar"):
        return frozenset() if name == "vector" else None
    given = [_labels_of(argument, schema) for argument in expr.args]
    labels = next(found for found in given if found is not None)
    if name == "histogram_quantile":
        assert "le" in labels, "a quantile needs the label le"
        return labels - {"le"}
    if name == "label_replace":
        return labels | {expr.args[1].val}
    return frozenset() if name in ("absent", "absent_over_time") else labels


def _of_operator(expr: promql.BinaryExpr, schema: Schema) -> Labels | None:
    left, right = _labels_of(expr.lhs, schema), _labels_of(expr.rhs, schema)
    if left is None or right is None:
        return right if left is None else left
    matching = expr.modifier.matching if expr.modifier else None
    if matching is None and str(expr.op) == "or":
        return left | right
    if matching is None:
        assert left == right, f"{sorted(left)} never match {sorted(right)} in {expr.prettify()}"
        return left
    named = frozenset(matching.labels)
    if matching.type == promql.LabelModifierType.Include:
        assert named <= left & right, f"on ({', '.join(named)}) in {expr.prettify()}"
    operator = str(expr.op)
    if operator in ("and", "unless"):
        return left
    if operator == "or":
        return left | right
    assert expr.modifier
    card = expr.modifier.card
    if card == promql.VectorMatchCardinality.OneToOne:
        return named
    many, one = (left, right) if card == promql.VectorMatchCardinality.ManyToOne else (right, left)
    taken = frozenset(expr.modifier.group_labels or ())
    assert taken <= one, f"no label {', '.join(taken - one)} on the one side of {expr.prettify()}"
    return many | taken
