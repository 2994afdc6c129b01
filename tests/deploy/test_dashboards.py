"""The dashboards are what their code makes, and ask only for what is exported."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from support.dashboards import FILES, RULES, VALUES, Asked, asked, load, panels
from support.promql import check_labels, exported, filled, recorded

QUERIES = [one for path in FILES for one in asked(path)]
UNITS = {unit for unit in vars(units).values() if isinstance(unit, str)}
EXPECTED = {"cost", "drift", "edge", "feature", "gateway", "patterns", "precompute"}
boards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_the_committed_files_are_what_the_code_makes(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/dashboards.py", "--check"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in FILES} == EXPECTED


@boards
def test_grafanas_own_types_read_it_and_write_the_same(path: Path) -> None:
    register_default_plugins()
    text = path.read_text()
    found = Dashboard.from_json(json.loads(text))
    again = json.dumps(found, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert again == text


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_expression_asks_for_exported_metrics_by_their_labels(query: Asked) -> None:
    given = check_labels(filled(query.expr, VALUES), {**exported(), **recorded(RULES)})
    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= given, f"{query.legend} of {query.expr}"


def test_the_check_of_expressions_finds_what_is_wrong() -> None:
    known = exported()
    for wrong in (
        "trivium_inferences",
        'trivium_inferences_total{arm="control"}',
        "sum by (arm) (trivium_inferences_total)",
        "sum by (feature) (trivium_tokens_total) / sum by (model) (trivium_cost_usd_total)",
        "trivium_tasks and on (feature) trivium_inferences_total",
        "histogram_quantile(0.5, sum by (feature) (rate(trivium_inference_latency_seconds_bucket[1m])))",
    ):
        with pytest.raises(AssertionError):
            check_labels(wrong, known)
    with pytest.raises(ValueError):
        check_labels("sum by (feature (trivium_tokens_total)", known)
    with pytest.raises(KeyError):
        filled("$nothing", VALUES)


@boards
def test_panels_stand_within_24_columns_and_not_upon_each_other(path: Path) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in load(path)["panels"]]
    for title, place in places:
        assert place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{one} and {other} overlap"
    lines: dict[int, int] = {}
    for _, place in places:
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]
    assert set(lines.values()) == {24}, "a line is not filled"


def test_ids_are_given_once() -> None:
    uids = [load(path)["uid"] for path in FILES]
    assert uids == [f"trivium-{path.stem}" for path in FILES]
    for path in FILES:
        ids = [panel["id"] for panel in load(path)["panels"]]
        assert len(set(ids)) == len(ids)
        assert "id" not in load(path), "a dashboard's number is the installation's"


@boards
def test_no_data_source_is_built_in(path: Path) -> None:
    board = load(path)
    kinds = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert kinds["datasource"] == "datasource"
    sources = {json.dumps(source) for source in _values_of("datasource", board)}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board)))
    assert used <= kinds.keys(), "an undeclared variable"
    assert board["refresh"] == "30s"
    (link,) = board["links"]
    assert link["type"] == "dashboards" and link["tags"] == board["tags"] and link["keepTime"]


@boards
def test_every_panel_has_a_unit_and_says_what_one_does_about_it(path: Path) -> None:
    for panel in panels(load(path)):
        told = panel["description"]
        assert len(told) > 25 and told[-1] in ".?", f"{panel['title']}: {told}"
        config = panel["fieldConfig"]["defaults"]
        unit = config.get("unit") or panel["options"].get("yAxis", {}).get("unit")
        assert unit in UNITS or config["mappings"], f"{panel['title']} has neither a unit nor words"
        if panel["type"] == "stat":
            assert config["noValue"], f"{panel['title']} would be empty"


@boards
def test_nothing_is_told_by_colour_alone(path: Path) -> None:
    for panel in panels(load(path)):
        if panel["type"] == "timeseries":
            legend = panel["options"]["legend"]
            assert legend["displayMode"] == "table" and "lastNotNull" in legend["calcs"]
            assert (
                all(target.get("legendFormat") for target in panel["targets"]) or len(panel["targets"]) == 1
            )
        if panel["type"] == "state-timeline":
            assert panel["options"]["showValue"] == "always" and panel["fieldConfig"]["defaults"]["mappings"]
        if panel["type"] == "stat":
            assert panel["options"]["textMode"] in ("auto", "name")


@boards
def test_every_runbook_that_is_linked_is_there(path: Path, root: Path) -> None:
    for link in _links(path):
        name = link.removeprefix("${runbooks}/")
        assert (root / "deploy" / "runbooks" / name).exists(), name


def _links(path: Path) -> list[str]:
    return [link["url"] for panel in panels(load(path)) for link in panel.get("links", [])]


def _values_of(name: str, value: Any) -> list[Any]:
    if isinstance(value, dict):
        own = [value[name]] if isinstance(value.get(name), dict) else []
        return own + [found for one in value.values() for found in _values_of(name, one)]
    return [found for one in value for found in _values_of(name, one)] if isinstance(value, list) else []
