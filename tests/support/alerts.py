"""The alert rules as they are committed, their tests, and what their expressions give."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.promql import Labels, check_labels, exported

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RUNBOOKS = FOLDER.parent / "runbooks"
RULES = sorted((FOLDER / "rules").glob("*.yaml"))
TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
# What other groups record comes first.
_ORDER = ("objectives", "burn")


@dataclass(frozen=True)
class Rule:
    """One rule; `alert` is empty for what is only recorded."""

    alert: str
    record: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def severity(self) -> str:
        """page or ticket."""
        return self.labels.get("severity", "")

    def __str__(self) -> str:
        return f"{self.alert or self.record} {self.severity}".strip()


@dataclass(frozen=True)
class Check:
    """What one test expects of an alert: how many fire, by severity, and what went in."""

    alert: str
    fires: frozenset[str]
    inputs: int


def rules() -> Iterator[Rule]:
    """All rules, each after what it is made of."""
    for path in sorted(RULES, key=lambda one: (one.stem not in _ORDER, one.stem != "objectives", one.stem)):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for one in group["rules"]:
                yield Rule(
                    one.get("alert", ""),
                    one.get("record", ""),
                    one["expr"],
                    one.get("labels", {}),
                    one.get("annotations", {}),
                )


ALERTS = [rule for rule in rules() if rule.alert]


def checks() -> Iterator[Check]:
    """All expectations of the alerts' tests."""
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for one in test["alert_rule_test"]:
                expected: list[dict[str, Any]] = one.get("exp_alerts", [])
                fires = frozenset(alert["exp_labels"]["severity"] for alert in expected)
                yield Check(one["alertname"], fires, len(test["input_series"]))


def schema_with_records() -> tuple[dict[str, Labels], dict[str, Labels]]:
    """Labels of every series, exported and recorded, and of what each alert's expression gives.

    Raises:
        AssertionError: an expression asks for what is not there.
    """
    known, given = dict(exported()), {}
    for rule in rules():
        found = check_labels(rule.expr, known)
        if rule.record:
            known[rule.record] = known.get(rule.record, frozenset()) | found | rule.labels.keys()
        else:
            given[str(rule)] = found | rule.labels.keys()
    return known, given
