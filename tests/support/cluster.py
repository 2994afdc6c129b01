"""What a cluster would refuse, or silently never connect: checked on rendered manifests."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from support.charts import Manifest, containers, pod_labels, pod_of, workloads

OLDEST_MINOR = 29
CUSTOM = ("HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor", "TriggerAuthentication")
_BY_NAME = {"serviceAccountName": "ServiceAccount", "serviceName": "Service"}
_BY_OBJECT = {
    "secretKeyRef": "Secret",  # pragma: allowlist secret
    "configMap": "ConfigMap",
    "service": "Service",
    "authenticationRef": "TriggerAuthentication",
}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def versions() -> list[str]:
    """The versions of Kubernetes that the chart is for, from the oldest to the newest with schemas here."""
    newest = int(kubernetes_validate.latest_version().split(".")[1])
    return [f"1.{minor}" for minor in range(OLDEST_MINOR, newest + 1)]


def check_schema(manifest: Manifest, version: str) -> None:
    """Strictly: an unknown field is an error. What a cluster learns by an extension has no schema here."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        assert manifest["kind"] in CUSTOM, manifest["kind"]


def faults(manifests: list[Manifest], external: set[tuple[str, str]]) -> Iterator[str]:
    """What does not fit together; `external` are the (kind, name) that an operator brings."""
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    yield from (f"{one} is made twice" for one in set(names) if names.count(one) > 1)
    known = set(names) | external
    for manifest in manifests:
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        if not _NAME.fullmatch(manifest["metadata"]["name"]):
            yield f"{where} is no name"
        for kind, name in _references(manifest):
            if (kind, name) not in known:
                yield f"{where} names {kind} {name}, which is not there"
        yield from (f"{where}: {fault}" for fault in _selects(manifest, manifests))
    for workload, container in containers(manifests):
        where = f"{workload['metadata']['name']}/{container['name']}"
        yield from (f"{where}: {fault}" for fault in _container_faults(workload, container))


def _references(manifest: Any) -> Iterator[tuple[str, str]]:
    """Every object that another names, wherever it stands in it."""
    if isinstance(manifest, list):
        for item in manifest:
            yield from _references(item)
    elif isinstance(manifest, dict):
        for key, value in manifest.items():
            named = list(_named_by(key, value))
            yield from named or _references(value)


def _named_by(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """What a field of this name refers to, if it does."""
    if isinstance(value, str) and key in _BY_NAME:
        yield _BY_NAME[key], value
    elif key == "scaleTargetRef":
        yield value.get("kind", "Deployment"), value["name"]
    elif key == "backendRefs":
        yield from (("Service", ref["name"]) for ref in value)
    elif key in _BY_OBJECT and isinstance(value, dict) and "name" in value:
        yield _BY_OBJECT[key], value["name"]


def _selects(manifest: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    """Services and budgets that select no pod, or a port that it does not have."""
    kind, spec = manifest["kind"], manifest.get("spec", {})
    if kind in ("Deployment", "StatefulSet"):
        wanted = spec["selector"]["matchLabels"].items()
        if not wanted <= pod_labels(manifest).items():
            yield "it does not select its own pods"
    if kind not in ("Service", "PodDisruptionBudget"):
        return
    labels = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
    pods = [w for w in workloads(manifests) if labels.items() <= pod_labels(w).items()]
    if len(pods) != 1:
        yield f"it selects the pods of {[p['metadata']['name'] for p in pods]}"
        return
    for port in spec.get("ports", ()):
        if port["targetPort"] not in _ports(pod_of(pods[0])):
            yield f"its port {port['targetPort']} is not one of its pods'"


def _ports(pod: Manifest) -> dict[str, int]:
    of = (*pod.get("initContainers", ()), *pod["containers"])
    return {port["name"]: port["containerPort"] for container in of for port in container.get("ports", ())}


def _container_faults(workload: Manifest, container: Manifest) -> Iterator[str]:
    own = {port["name"] for port in container.get("ports", ())}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe in container and container[probe]["httpGet"]["port"] not in own:
            yield f"the {probe} asks a port that it does not have"
    volumes = {volume["name"] for volume in pod_of(workload).get("volumes", ())}
    volumes |= {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", ())}
    for mount in container.get("volumeMounts", ()):
        if mount["name"] not in volumes:
            yield f"the volume {mount['name']} is not there"
    paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
    if len(paths) != len(set(paths)):
        yield "two volumes are mounted on one path"
    names = [variable["name"] for variable in container.get("env", ())]
    if len(names) != len(set(names)):
        yield f"a variable is set twice: {sorted(n for n in names if names.count(n) > 1)}"
