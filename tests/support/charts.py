"""The chart, rendered by Helm itself."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

CHART = Path(__file__).parents[2] / "helm/trivium"
FILES = ("values.yaml", *sorted(path.name for path in CHART.glob("values-*.yaml")))
WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod")
Manifest = dict[str, Any]


def render(values: dict[str, Any] | None = None, name: str = "demo") -> list[Manifest]:
    """Every object that the chart makes of these values.

    Raises:
        HelmError: the values are refused.
    """
    with Chart.load(str(CHART)) as chart:
        rendered = chart.render(values or {}, name=name, namespace="trivium")
    return [
        document
        for path, text in sorted(rendered.items())
        if path.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if document
    ]


@cache
def values_of(file: str) -> dict[str, Any]:
    """A values file."""
    read: dict[str, Any] = yaml.load((CHART / file).read_text("utf-8"), yaml.CSafeLoader)
    return read


@cache
def rendered(file: str) -> list[Manifest]:
    """Every object of a values file."""
    return render(values_of(file))


def pod_of(manifest: Manifest) -> Manifest:
    """The pod's spec of a workload."""
    spec: Manifest = manifest["spec"]
    return spec if manifest["kind"] == "Pod" else spec["template"]["spec"]


def pod_labels(manifest: Manifest) -> dict[str, str]:
    """The labels of its pods."""
    of = manifest if manifest["kind"] == "Pod" else manifest["spec"]["template"]
    labels: dict[str, str] = of["metadata"]["labels"]
    return labels


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    """Those that make pods."""
    return [one for one in manifests if one["kind"] in WORKLOADS]


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Every container, with the workload that it is of."""
    for one in workloads(manifests):
        pod = pod_of(one)
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield one, container


def component(manifest: Manifest) -> str:
    """What it belongs to."""
    labels: dict[str, str] = manifest["metadata"]["labels"]
    return labels["app.kubernetes.io/component"]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of a kind whose name ends so."""
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [(m["kind"], m["metadata"]["name"]) for m in manifests]
    return found[0]
