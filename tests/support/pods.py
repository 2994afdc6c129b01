"""Rendered containers as processes of this machine: the one place that says what stands for what.

Images are this environment's Python, with the checkout's features and models; mounted paths are folders;
services are free ports of the loopback; what is outside the cluster is as a test says.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.charts import Manifest, find, pod_labels, pod_of, workloads
from support.edge import free_port
from support.platform import ROOT

IMAGE = {"/app/features": ROOT / "features", "/app/models": ROOT / "models"}
BIN = Path(sys.executable).parent
LOCAL = re.compile(r"\b127\.0\.0\.1:(\d+)\b")
HOST = re.compile(r"//([a-z0-9.-]+):(\d+)")


@dataclass
class Cluster:
    """What a release's objects are on this machine.

    Args:
        secrets: (Secret, key) and the value.
        outside: addresses outside the cluster, as `//host[:port]`, and where they are here.
    """

    manifests: list[Manifest]
    folder: Path
    secrets: Mapping[tuple[str, str], str]
    outside: Mapping[str, str]
    asked: set[tuple[str, str]] = field(default_factory=set)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)

    def port(self, workload: Manifest, container_port: int) -> int:
        """Where a port of a workload's pod is."""
        of = (workload["metadata"]["name"], container_port)
        return self.ports.setdefault(of, free_port())

    def service_port(self, name: str, port: int) -> int:
        """Where a port of a service leads to."""
        service = find(self.manifests, "Service", name)
        (wanted,) = (one for one in service["spec"]["ports"] if one["port"] == port)
        labels = service["spec"]["selector"].items()
        (workload,) = (one for one in workloads(self.manifests) if labels <= pod_labels(one).items())
        pod = pod_of(workload)
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            for own in container.get("ports", ()):
                if own["name"] == wanted["targetPort"]:
                    return self.port(workload, own["containerPort"])
        raise AssertionError(f"{name}:{port} leads to no container")

    def volume(self, workload: Manifest, name: str) -> Path:
        """The folder of a volume; with the files of its ConfigMap, if it is one."""
        folder = self.folder / str(workload["metadata"]["name"]) / name
        if folder.is_dir():
            return folder
        folder.mkdir(parents=True)
        given: Manifest = next((v for v in pod_of(workload).get("volumes", ()) if v["name"] == name), {})
        source = given.get("configMap") or given.get("secret")
        if source:
            held = self._held(source)
            for item in source.get("items") or [{"key": key, "path": key} for key in held]:
                target = folder / item["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(held[item["key"]], "utf-8")
        return folder

    def _held(self, source: Manifest) -> dict[str, str]:
        """What a ConfigMap or a Secret has, by key."""
        if "name" in source:
            data: dict[str, str] = find(self.manifests, "ConfigMap", source["name"])["data"]
            return data
        return {key: value for (name, key), value in self.secrets.items() if name == source["secretName"]}

    def env_of(self, container: Manifest) -> dict[str, str]:
        """The variables as they stand in the chart, with what they refer to."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            held = find(self.manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
            found |= held
        for variable in container.get("env", ()):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
                continue
            ref = variable["valueFrom"]["secretKeyRef"]
            self.asked.add((ref["name"], ref["key"]))
            found[variable["name"]] = self.secrets[ref["name"], ref["key"]]
        return found


@dataclass
class Container:
    """One rendered container, ready to be run here."""

    cluster: Cluster
    workload: Manifest
    spec: Manifest

    @property
    def name(self) -> str:
        """Workload and container."""
        return f"{self.workload['metadata']['name']}/{self.spec['name']}"

    @property
    def root(self) -> Path:
        """Its own file system, where nothing may be written: it must stay empty."""
        folder = self.cluster.folder / self.name.replace("/", "-")
        folder.mkdir(exist_ok=True, parents=True)
        return folder

    @property
    def mounts(self) -> dict[str, Path]:
        """Paths in the container, and the folders that they are, the deepest first."""
        found = dict(IMAGE)
        for mount in self.spec.get("volumeMounts", ()):
            found[mount["mountPath"]] = self.cluster.volume(self.workload, mount["name"])
        return dict(sorted(found.items(), key=lambda one: -len(one[0])))

    def argv(self, words: list[str] | None = None) -> list[str]:
        """A command, by default its own with its arguments."""
        own = [*self.spec["command"], *self.spec.get("args", ())]
        return [self.here(word) for word in (own if words is None else words)]

    def environment(self) -> dict[str, str]:
        """Nothing of the machine's but where programs are found."""
        ports = {str(port["containerPort"]) for port in self.spec.get("ports", ())}
        made = {"PATH": str(BIN), "HOME": str(self.root)}
        if "/tmp" in self.mounts:
            made["TMPDIR"] = str(self.mounts["/tmp"])
        for name, value in self.cluster.env_of(self.spec).items():
            is_port = name.endswith("_PORT") and value in ports
            made[name] = str(self.cluster.port(self.workload, int(value))) if is_port else self.here(value)
        return made

    def here(self, text: str) -> str:
        """What a text of the manifest is on this machine.

        Raises:
            AssertionError: it names a path or an address that nothing stands for.
        """
        if text in self.cluster.secrets.values():
            return text
        for address, where in self.cluster.outside.items():
            text = text.replace(address, where)
        known = [*self.cluster.outside.values()]
        text = text.replace("0.0.0.0", "127.0.0.1")
        if not any(where in text for where in known):
            text = LOCAL.sub(self._own_port, text)
            text = HOST.sub(self._service, text)
        option, path = re.fullmatch(r"(--[a-z-]+=)?(.*)", text, re.DOTALL).groups("")  # type: ignore[union-attr]
        return option + self._folder(path) if path.startswith("/") else text

    def _folder(self, path: str) -> str:
        for mounted, folder in self.mounts.items():
            if path == mounted or path.startswith(f"{mounted}/"):
                return f"{folder}{path.removeprefix(mounted)}"
        raise AssertionError(f"{self.name}: {path} is on no volume")

    def _own_port(self, found: re.Match[str]) -> str:
        return f"127.0.0.1:{self.cluster.port(self.workload, int(found[1]))}"

    def _service(self, found: re.Match[str]) -> str:
        if found[1] == "127.0.0.1":
            return found[0]
        return f"//127.0.0.1:{self.cluster.service_port(found[1], int(found[2]))}"

    def run(self, words: list[str] | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, by default its own."""
        return subprocess.run(
            self.argv(words),
            env=self.environment(),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


def containers_of(cluster: Cluster, workload: Manifest) -> tuple[list[Container], list[Container]]:
    """The init containers of a workload's pod, sidecars included, and the others."""
    pod: Any = pod_of(workload)
    lists = (pod.get("initContainers", ()), pod["containers"])
    first, rest = ([Container(cluster, workload, spec) for spec in specs] for specs in lists)
    return first, rest
