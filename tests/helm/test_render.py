"""The chart as Helm renders it: valid in every version of Kubernetes that it is for, and safe."""

import json
import re
from pathlib import Path
from typing import Any

import helm_python
import pytest

from support.charts import (
    CHART,
    FILES,
    component,
    containers,
    find,
    pod_of,
    render,
    rendered,
    values_of,
    workloads,
)
from support.cluster import check_schema, faults, versions

MERGED: dict[str, Any] = values_of("values.yaml")


def _external(file: str) -> set[tuple[str, str]]:
    values = MERGED | values_of(file)
    names = {values["secret"]["name"], "trivium-smoke"}
    return {("Secret", name) for name in names}


def test_the_linter_has_nothing_to_say() -> None:
    told = helm_python.lint(str(CHART), strict=True)
    assert told["errors"] == []
    assert {message["error"] for message in told["messages"]} <= {"icon is recommended"}


def test_the_newest_version_of_kubernetes_is_among_those_checked() -> None:
    assert len(versions()) >= 8
    assert versions()[0] == "1.29"


def test_every_object_is_valid_in_every_version_of_kubernetes() -> None:
    # Many objects are the same in several files. In the oldest and the newest all, between them the fullest.
    different = {json.dumps(manifest): manifest for file in FILES for manifest in rendered(file)}
    assert len(different) > 40
    for manifest in different.values():
        for version in (versions()[0], versions()[-1]):
            check_schema(manifest, version)
    for manifest in rendered("values-production.yaml"):
        for version in versions()[1:-1]:
            check_schema(manifest, version)


@pytest.mark.parametrize("file", FILES)
def test_what_is_named_is_there_and_what_selects_finds_its_pods(file: str) -> None:
    assert list(faults(rendered(file), _external(file))) == []


@pytest.mark.parametrize("file", FILES)
def test_no_container_may_more_than_it_needs(file: str) -> None:
    for workload in workloads(rendered(file)):
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        # Else a service called trivium-gateway would set TRIVIUM_GATEWAY_PORT to tcp://….
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsNonRoot"] is True
    for _, container in containers(rendered(file)):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (
            {*container["resources"]["limits"]} == {"cpu", "memory"} == {*container["resources"]["requests"]}
        )


@pytest.mark.parametrize("file", FILES)
def test_no_secret_stands_in_the_chart(file: str) -> None:
    assert not any(manifest["kind"] == "Secret" for manifest in rendered(file))
    for _, container in containers(rendered(file)):
        for variable in container.get("env", ()):
            if re.search(r"(KEY|TOKEN|_URL)$", variable["name"]) and "value" in variable:
                assert variable["name"] in (
                    *("TRIVIUM_EDGE_URL", "TRIVIUM_UNLEASH_URL", "TRIVIUM_LOCAL_BASE_URL"),
                ), variable


def test_a_pod_that_goes_has_the_time_to_answer_and_to_store() -> None:
    for file in FILES:
        gateway = next(w for w in workloads(rendered(file)) if component(w) == "gateway")
        pod = pod_of(gateway)
        waits = int(re.findall(r"sleep\((\d+)\)", str(pod["containers"][0]["lifecycle"]))[0])
        assert pod["terminationGracePeriodSeconds"] >= waits + 15  # ten to drain, five to store


def test_a_sidecar_is_there_before_and_ends_after_who_calls_it() -> None:
    manifests = rendered("values-laptop.yaml")
    for name in ("gateway", "worker"):
        pod = pod_of(find(manifests, "Deployment", name))
        (sidecar,) = pod["initContainers"]
        assert (sidecar["name"], sidecar["restartPolicy"]) == ("edge", "Always")
        assert sidecar["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"
        urls = [v["value"] for v in pod["containers"][0]["env"] if v["name"] == "TRIVIUM_EDGE_URL"]
        assert urls == ["http://127.0.0.1:8081"]


def test_the_edge_model_runs_as_many_texts_at_once_as_it_has_cores() -> None:
    for cores in ("1", "3"):
        limits = {"cpu": cores, "memory": "768Mi"}
        manifests = render({"edge": {"resources": {"limits": limits}}})
        (edge,) = pod_of(find(manifests, "Deployment", "-edge"))["containers"]
        told = {variable["name"]: variable.get("value") for variable in edge["env"]}
        assert (told["TRIVIUM_EDGE_SLOTS"], told["TRIVIUM_EDGE_THREADS_PER_RUN"]) == (cores, "1")


def test_migrations_run_before_anything_else_and_need_nothing_of_the_release() -> None:
    manifests = rendered("values-production.yaml")
    hooks = {
        (m["kind"], m["metadata"]["name"]): m["metadata"].get("annotations", {}).get("helm.sh/hook", "")
        for m in manifests
    }
    job = find(manifests, "Job", "-migrations")
    assert hooks["Job", job["metadata"]["name"]] == "pre-install,pre-upgrade"
    account = pod_of(job)["serviceAccountName"]
    assert hooks["ServiceAccount", account] == "pre-install,pre-upgrade"
    assert hooks["NetworkPolicy", job["metadata"]["name"]] == "pre-install,pre-upgrade"
    assert "ConfigMap" not in str(pod_of(job)["volumes"])


def test_what_is_scraped_is_asked_with_the_service_key() -> None:
    for monitor in (m for m in rendered("values-production.yaml") if m["kind"] == "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["authorization"]["credentials"] == {"name": "trivium", "key": "service-key"}


def test_rules_and_dashboards_are_those_of_the_repository(root: Path) -> None:
    manifests = rendered("values-production.yaml")
    rules = [m for m in manifests if m["kind"] == "PrometheusRule"]
    assert len(rules) == len(list((root / "deploy/prometheus/rules").glob("*.yaml")))
    assert all(rule["spec"]["groups"] for rule in rules)
    boards = {
        name: text
        for m in manifests
        if m["kind"] == "ConfigMap" and "dashboard" in m["metadata"]["name"]
        for name, text in m["data"].items()
    }
    files = {
        path.name: path.read_text("utf-8") for path in (root / "deploy/grafana/dashboards").glob("*.json")
    }
    assert boards == files


def test_keda_counts_the_chunks_as_the_documentation_says(root: Path) -> None:
    (scaled,) = (m for m in rendered("values-production.yaml") if m["kind"] == "ScaledObject")
    query = " ".join(scaled["spec"]["triggers"][0]["metadata"]["query"].split())
    assert query in " ".join((root / "docs/scale.md").read_text("utf-8").split())
