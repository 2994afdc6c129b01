"""Every alert fires when it should and is silent when it should be, and asks for what is exported."""

import re
from pathlib import Path

import pytest
from prometheus_client import Histogram

import trivium.metrics
from support.alerts import ALERTS, RULES, TESTS, Rule, checks, rules, schema_with_records
from support.prometheus import promtool
from support.promql import exported, selectors
from trivium.metrics import LATENCY_BUCKETS_S

_OBJECTIVE = re.compile(r"vector\(([\d.]+)\)")


def _named(path: Path) -> str:
    return path.stem


def test_promtool_finds_no_fault_in_the_rules() -> None:
    done = promtool("check", "rules", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("SUCCESS", done.stdout)) == len(RULES) > 5


@pytest.mark.parametrize("path", TESTS, ids=_named)
def test_alerts_fire_and_are_silent_as_promised(path: Path) -> None:
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_wrong_is_found(tmp_path: Path) -> None:
    rule = (RULES[0].parent / "costs.yaml").read_text()
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules" / "costs.yaml").write_text(rule.replace(">= 0.8", ">= 0.9"))
    test = tmp_path / "tests" / "costs.yaml"
    test.write_text((TESTS[0].parent / "costs.yaml").read_text())
    done = promtool("test", "rules", test)
    assert done.returncode == 1 and "BudgetNearlyUsed" in done.stdout + done.stderr


@pytest.mark.parametrize("rule", ALERTS, ids=str)
def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(rule: Rule) -> None:
    own = [one for one in checks() if one.alert == rule.alert and one.inputs]
    assert any(rule.severity in one.fires for one in own), "in no test it fires"
    assert any(rule.severity not in one.fires for one in own), "in no test it is silent"


def test_no_test_names_an_alert_that_is_not_there() -> None:
    assert {one.alert for one in checks()} == {rule.alert for rule in ALERTS}
    assert len({str(rule) for rule in ALERTS}) == len(ALERTS)


def test_rules_ask_for_exported_metrics_by_their_labels_and_name_those_that_they_have() -> None:
    _, given = schema_with_records()
    for rule in ALERTS:
        told = " ".join(rule.annotations.values())
        named = set(re.findall(r"\$labels\.(\w+)", told))
        assert named <= given[str(rule)], f"{rule}: {sorted(named - given[str(rule)])}"
        absent = "absent" in rule.expr or rule.alert == "TrafficGone"
        assert absent or "namespace" in given[str(rule)], f"{rule} mixes installations"


def test_what_is_of_a_feature_says_so() -> None:
    known, given = schema_with_records()
    for rule in ALERTS:
        asked = [known[str(one.name)] for one in selectors(rule.expr)]
        if all("feature" in labels for labels in asked) and rule.severity != "page":
            assert "feature" in given[str(rule)], rule


def test_bounds_of_latency_are_buckets_as_a_scrape_writes_them() -> None:
    histograms = {
        f"{one._name}_bucket": one for one in vars(trivium.metrics).values() if isinstance(one, Histogram)
    }
    bounds = []
    for rule in rules():
        for selector in selectors(rule.expr):
            for matcher in selector.matchers.matchers:
                if matcher.name == "le":
                    assert str(selector.name) in histograms
                    bounds.append(matcher.value)
                    assert matcher.value in {str(bound) for bound in LATENCY_BUCKETS_S}, rule
    assert len(bounds) >= 4


@pytest.mark.parametrize("rule", ALERTS, ids=str)
def test_every_alert_says_how_urgent_what_and_where_to_read_on(rule: Rule, root: Path) -> None:
    assert rule.severity in ("page", "ticket")
    assert rule.annotations.keys() == {"summary", "description", "runbook"}
    assert len(rule.annotations["summary"]) < 90 and rule.annotations["summary"][-1] != "."
    assert rule.annotations["description"].endswith(".")
    kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", rule.alert).lower()
    assert rule.annotations["runbook"] == f"deploy/runbooks/{kebab}.md"
    assert (root / rule.annotations["runbook"]).is_file()


def test_a_value_is_told_as_people_read_it() -> None:
    for rule in ALERTS:
        for value in re.findall(r"{{ \$value([^}]*)}}", rule.annotations["description"]):
            share = re.search(r"ratio|burning|rate|>= 0|> 0\.", rule.expr)
            assert "humanize" in value or not share, f"{rule}: {value}"


def test_objectives_are_what_alerts_and_documents_say(root: Path) -> None:
    allowed = {
        rule.labels["slo"]: float(found[1]) * 100
        for rule in rules()
        if rule.record == "trivium:slo_allowed:ratio" and (found := _OBJECTIVE.search(rule.expr))
    }
    assert len(allowed) == 6
    document = (root / "docs/how-to/alerts.md").read_text()
    burning = [rule for rule in ALERTS if "slo_burning" in rule.expr]
    for name, percent in allowed.items():
        assert re.search(rf"\| `{name}` \| {100 - percent:g} %", document), name
        told = [rule for rule in burning if re.search(rf'slo="{name}"', rule.expr)]
        told += [rule for rule in burning if name.endswith("-latency") and "-latency" in rule.expr]
        assert len(told) == 2
        for rule in told:
            assert f"where {percent:g} % may" in rule.annotations["description"], rule


def test_the_document_names_every_alert(root: Path) -> None:
    document = (root / "docs/how-to/alerts.md").read_text()
    objectives = {"AnswersFailing", "AnswersDegraded", "AnswersSlow", "RequestsFailing"}
    named = set(re.findall(r"`([A-Z]\w+)`", document))
    assert {rule.alert for rule in ALERTS} - objectives <= named


def test_metrics_that_only_one_kind_of_service_sets_are_taken_from_it() -> None:
    """A gauge without labels is exported by every process, at 0 by those that do not know it."""
    plain = {name for name, labels in exported().items() if name.startswith("trivium_") and len(labels) == 3}
    known = {"trivium_limits_redis_up", "trivium_retention_last_success_timestamp_seconds"}
    for rule in ALERTS:
        asked = {str(one.name) for one in selectors(rule.expr)} & plain & known
        for name in asked:
            other = "trivium_tasks" if "redis" in name else "trivium_worker_slots"
            assert f"{other}) > 0" in rule.expr or f"{other} > 0" in rule.expr, f"{rule}: {name}"
