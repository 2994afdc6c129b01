"""The traffic that the documentation draws is what the network policies let through: no more, no less."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.charts import FILES, Manifest, component, pod_labels, render, rendered, values_of, workloads

DOCUMENT = "docs/how-to/deploy-on-kubernetes.md"
COMPONENTS = ("gateway", "worker", "edge", "migrations", "tests")
CHANGED: dict[str, Any] = {
    "gateway": {"port": 9080},
    "worker": {"port": 9084},
    "edge": {"mode": "sidecar", "port": 9081, "models": {"source": "url", "url": "s3://a/b", "items": []}},
    "networkPolicy": {
        "dns": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
        "monitoring": [],
        "llm": {"peers": [{"podSelector": {"matchLabels": {"app": "llm"}}}], "port": 9000},
        "models": {"peers": [{"ipBlock": {"cidr": "10.3.0.0/24"}}], "port": 9443},
    },
}
CHANGED["edge"]["models"]["items"] = [{"model": "a/1", "sha256": "0" * 64}]


@dataclass(frozen=True)
class Flow:
    """What one side lets through: pods of a component, to or from a peer (as JSON), on a port."""

    component: str
    way: str
    peer: str
    port: int
    protocol: str


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in change if isinstance(change[key], dict) and isinstance(base.get(key), dict)}
    return {**base, **change, **{key: _merged(base[key], change[key]) for key in both}}


def _at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def _rows(root: Path) -> Iterator[tuple[list[str], list[str], str, list[tuple[str, str]]]]:
    """From, to, the port and the conditions of each row of the table."""
    text = (root / DOCUMENT).read_text("utf-8")
    table = text.partition("| from | to | port | only with |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        start, end, port, only = (cell.strip() for cell in line.strip("|").split("|"))
        conditions = [(key, value) for key, value in re.findall(r"`([a-zA-Z.]+): ([a-z]+)`", only)]
        yield _names(start), _names(end), port, conditions


def _names(cell: str) -> list[str]:
    return [name.strip(" `") for name in cell.split(",")]


def _drawn(root: Path, values: dict[str, Any], there: set[str]) -> set[Flow]:
    found = set()
    for starts, ends, port, conditions in _rows(root):
        if not all(str(_at(values, key)).lower() == value for key, value in conditions):
            continue
        for protocol, number in _ports(port, values):
            for start in starts:
                for end in ends:
                    found |= _both_sides(values, start, end, number, protocol)
    return {flow for flow in found if flow.component in there}


def _ports(cell: str, values: dict[str, Any]) -> list[tuple[str, int]]:
    """`8080 (gateway.port)`, the default and where it stands; or `53 UDP and TCP`."""
    number, _, rest = cell.partition(" ")
    if key := re.fullmatch(r"\(`([a-zA-Z.]+)`\)", rest):
        assert int(number) == _at(values_of("values.yaml"), key[1]), cell
        return [("TCP", _at(values, key[1]))]
    return [(protocol, int(number)) for protocol in rest.split(" and ")]


def _both_sides(values: dict[str, Any], start: str, end: str, port: int, protocol: str) -> set[Flow]:
    found = set()
    if start in COMPONENTS:
        found |= {Flow(start, "egress", peer, port, protocol) for peer in _peers(values, end)}
    if end in COMPONENTS:
        found |= {Flow(end, "ingress", peer, port, protocol) for peer in _peers(values, start)}
    return found


def _peers(values: dict[str, Any], name: str) -> list[str]:
    if name in COMPONENTS:
        return [name]
    given = _at(values, name)
    peers = given if isinstance(given, list) else given["peers"]
    return [json.dumps(peer, sort_keys=True) for peer in peers]


def _allowed(manifests: list[Manifest]) -> set[Flow]:
    return {
        flow
        for policy in manifests
        if policy["kind"] == "NetworkPolicy"
        for way, side in (("ingress", "from"), ("egress", "to"))
        for rule in policy["spec"][way] or ()
        for flow in _flows(component(policy), way, rule, side)
    }


def _flows(name: str, way: str, rule: dict[str, Any], side: str) -> Iterator[Flow]:
    # A rule without peers or without ports lets everything through.
    assert rule[side] and rule["ports"], (name, rule)
    for peer in rule[side]:
        for port in rule["ports"]:
            assert "endPort" not in port
            yield Flow(name, way, _peer(peer), port["port"], port["protocol"])


def _peer(peer: dict[str, Any]) -> str:
    """A component's name, if it is one of the release's own, or the peer as JSON."""
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    if {*peer} == {"podSelector"} and labels.get("app.kubernetes.io/instance") == "demo":
        assert {*labels} == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}
        return str(labels["app.kubernetes.io/component"])
    return json.dumps(peer, sort_keys=True)


def _cases() -> dict[str, tuple[dict[str, Any], list[Manifest]]]:
    base = values_of("values.yaml")
    found = {file: (_merged(base, values_of(file)), rendered(file)) for file in FILES}
    return {**found, "changed": (_merged(base, CHANGED), render(CHANGED))}


CASES = _cases()


@pytest.mark.parametrize("case", CASES)
def test_what_is_drawn_is_what_is_allowed(root: Path, case: str) -> None:
    values, manifests = CASES[case]
    there = {component(workload) for workload in workloads(manifests)}
    drawn, allowed = _drawn(root, values, there), _allowed(manifests)
    assert len(drawn) > 15
    assert sorted(map(str, allowed - drawn)) == [], "allowed, and not drawn"
    assert sorted(map(str, drawn - allowed)) == [], "drawn, and not allowed"


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_under_exactly_one_policy_of_both_ways(case: str) -> None:
    _, manifests = CASES[case]
    policies = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    for workload in workloads(manifests):
        labels = pod_labels(workload).items()
        over = [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels]
        assert [component(policy) for policy in over] == [component(workload)]
