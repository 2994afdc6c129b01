"""A real Prometheus scrapes the platform under traffic, and every dashboard and rule asks it."""

import re
from collections.abc import Iterator

import promql_parser as promql
import pytest

from support.busy import busy_platform, send_traffic
from support.dashboards import FILES, RULES, VALUES, Asked, asked
from support.platform import BASE_PORTS
from support.promql import SCRAPED, exported, filled, selectors
from support.scraper import Prometheus, QueryRefused

pytestmark = pytest.mark.platform
JOBS = ("gateway", "worker", "edge")
QUERIES = [one for path in FILES for one in asked(path)]

# What has no series after the traffic of support.busy, and why. All else must have some.
EXPECTED_EMPTY = {
    "trivium_drift_score": "a report needs a reference of 200 inferences and a window of 50",
    "trivium_drift_detected": "the same",
    "trivium_guard_lower_bound": "a stage must be running, with 30 subjects in each arm",
    "trivium_guard_actions_total": "the same",
    "trivium_results": "results are counted every five minutes",
    "trivium_results_bytes": "the same",
    "ALERTS": "no alert is due",
    'ALERTS{alertstate="firing"}': "the same",
    'trivium_inferences_total{outcome="left"}': "no caller goes away",
    'trivium_inference_latency_seconds_bucket{outcome="left"}': "no caller goes away",
    'trivium_shadow_answers_total{outcome="differs"}': "the shadow is the same model",
    'trivium_chunks_total{outcome="failed"}': "no chunk fails",
    'trivium_chunks_total{outcome="lost"}': "no worker is killed",
    'trivium_edge_requests_total{status="503"}': "the line is never full",
    'trivium_edge_requests_total{status="504"}': "no deadline passes",
    'trivium_edge_requests_total{status="OK"}': "nobody calls over gRPC",
    'trivium_edge_requests_total{status="UNAVAILABLE"}': "nobody calls over gRPC",
    'trivium_edge_requests_total{status="DEADLINE_EXCEEDED"}': "nobody calls over gRPC",
    'http_requests_total{status="5.."}': "nothing fails but chats, which are counted by themselves",
}
# Panels that show only what is wrong; what they ask for is there.
NOTHING_WRONG = {"feature: Past its gate"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped a busy platform twice since its traffic."""
    folder = tmp_path_factory.mktemp("scrape")
    with busy_platform(folder) as platform:
        targets = {job: f"127.0.0.1:{BASE_PORTS[job] + platform.offset}" for job in JOBS}
        with Prometheus(folder, targets, platform.service_key, RULES) as server:
            send_traffic(platform)
            server.until_scraped(3, len(JOBS))
            yield server


def test_no_expression_of_a_dashboard_is_an_error(prometheus: Prometheus) -> None:
    assert _refused(prometheus, QUERIES) == []
    wrong = Asked("none", "none", "trivium_tasks / on (job) trivium_queue_depth{", "")
    assert len(_refused(prometheus, [wrong])) == 1


def test_every_metric_and_label_value_that_dashboards_ask_for_is_there(prometheus: Prometheus) -> None:
    wanted = {want for query in QUERIES for want in _wanted(filled(query.expr, VALUES))}
    empty = {want for want in wanted if not prometheus.query(_selector(want))}
    missing = sorted(empty - EXPECTED_EMPTY.keys())
    assert not missing, "\n".join(missing)
    assert sorted(EXPECTED_EMPTY.keys() - wanted) == [], "no dashboard asks for these any more"


def test_panels_show_something_under_traffic(prometheus: Prometheus) -> None:
    """But for those that ask for what is expected to be empty."""
    asked_for = [(query, filled(query.expr, VALUES)) for query in QUERIES]
    shown = [(query, expr) for query, expr in asked_for if not _wanted(expr) & EXPECTED_EMPTY.keys()]
    empty = [
        f"{query}: {expr}"
        for query, expr in shown
        if str(query) not in NOTHING_WRONG and not prometheus.query(expr)
    ]
    assert not empty, "\n".join(empty)


def test_series_have_the_labels_that_the_code_says(prometheus: Prometheus) -> None:
    for name, labels in exported().items():
        for series in prometheus.query(name):
            found = set(series["metric"]) - {"__name__"}
            assert found == labels - {"namespace"}, f"{name}: {sorted(found)}"
    assert {"job", "instance"} < SCRAPED


def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert bool(rules) == bool(RULES)
    broken = [f"{rule['query']}: {rule.get('lastError')}" for rule in rules if rule["health"] == "err"]
    assert not broken, "\n".join(broken)


def _refused(prometheus: Prometheus, queries: list[Asked]) -> list[str]:
    found = []
    for query in queries:
        try:
            prometheus.query(filled(query.expr, VALUES))
        except QueryRefused as error:
            found.append(f"{query}: {error}")
    return found


def _wanted(expr: str) -> set[str]:
    """Each metric of an expression, and each value that it expects of a label."""
    found = set()
    for selector in selectors(expr):
        name = str(selector.name)
        found.add(name)
        for matcher in selector.matchers.matchers:
            if matcher.name not in ("namespace", "feature", "alertname"):
                alternatives = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
                values = matcher.value.split("|") if alternatives else [matcher.value]
                found |= {f'{name}{{{matcher.name}="{value}"}}' for value in values}
    return found


def _selector(want: str) -> str:
    return re.sub(r'="', '=~"', want)
