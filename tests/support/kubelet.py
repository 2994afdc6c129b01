"""What a node does with a pod: starts its containers in order, asks their probes, and ends them."""

import http.client
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.charts import Manifest, pod_of
from support.pods import Cluster, Container, containers_of

POLL_S = 0.05
SERVES = ("Deployment", "StatefulSet")


@dataclass
class Process:
    """A container that runs."""

    container: Container
    popen: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """What it wrote."""
        return _log_of(self.container).read_text(errors="replace")

    def port_of(self, name: str) -> int:
        """Where its port of a name is."""
        (found,) = (p["containerPort"] for p in self.container.spec["ports"] if p["name"] == name)
        return self.container.cluster.port(self.container.workload, found)

    def asks(self, kind: str) -> bool:
        """Whether a probe is content, asked as the kubelet does."""
        probe = self.container.spec[kind]
        if "exec" in probe:
            return self.container.run(probe["exec"]["command"], probe["timeoutSeconds"]).returncode == 0
        given = probe["httpGet"]
        headers = {one["name"]: one["value"] for one in given.get("httpHeaders", ())}
        port = self.port_of(given["port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=probe["timeoutSeconds"])
        try:
            connection.request("GET", given["path"], headers=headers)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def until(self, kind: str) -> None:
        """Waits until a probe is content, at most as long as Kubernetes would.

        Raises:
            AssertionError: it ended, or was not content in time.
        """
        probe = self.container.spec[kind]
        end = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
        while not self.asks(kind):
            told = f"{self.container.name}: {kind}: exit {self.popen.poll()}\n{self.log[-3000:]}"
            assert self.popen.poll() is None and time.monotonic() < end, told
            time.sleep(POLL_S)

    def pre_stop(self) -> None:
        """Runs its hook, if it has one."""
        hook = self.container.spec.get("lifecycle", {}).get("preStop")
        if hook:
            assert self.container.run(hook["exec"]["command"]).returncode == 0

    def end(self, seconds: float) -> int:
        """SIGTERM; its exit code.

        Raises:
            TimeoutExpired: Kubernetes would kill it now.
        """
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)


@dataclass
class Pod:
    """A pod that runs; `sidecars` are in the order of their start."""

    workload: Manifest
    sidecars: list[Process] = field(default_factory=list)
    main: list[Process] = field(default_factory=list)

    @property
    def processes(self) -> list[Process]:
        """All that run in it."""
        return [*self.sidecars, *self.main]

    @property
    def grace_s(self) -> float:
        """Seconds until it is killed."""
        seconds: float = pod_of(self.workload)["terminationGracePeriodSeconds"]
        return seconds

    def end(self, meanwhile: Callable[[], Any] = lambda: None) -> list[int]:
        """Ends it as a deletion does; the exit codes. `meanwhile` is called between hook and signal."""
        until = time.monotonic() + self.grace_s
        for process in self.main:
            process.pre_stop()
        meanwhile()
        codes = [process.end(until - time.monotonic()) for process in self.main]
        return codes + [process.end(until - time.monotonic()) for process in reversed(self.sidecars)]

    def kill(self) -> None:
        """Ends what is left of it."""
        for process in self.processes:
            process.popen.kill()
            process.popen.wait()


def start(cluster: Cluster, workload: Manifest) -> Pod:
    """Starts a pod; returns when its containers have started and are ready.

    Raises:
        AssertionError: an init container failed, or a probe was not content in time.
    """
    pod = Pod(workload)
    first, rest = containers_of(cluster, workload)
    try:
        for container in first:
            if container.spec.get("restartPolicy") == "Always":
                pod.sidecars.append(_spawn(container))
                pod.sidecars[-1].until("startupProbe")
            else:
                done = container.run()
                assert done.returncode == 0, f"{container.name}: {done.stdout}{done.stderr}"
        pod.main += [_spawn(container) for container in rest]
        for process in pod.main:
            process.until("startupProbe")
        for process in pod.processes:
            process.until("readinessProbe")
            assert process.asks("livenessProbe"), process.container.name
    except BaseException:
        pod.kill()
        raise
    return pod


@contextmanager
def running(cluster: Cluster, *names: str) -> Iterator[dict[str, Pod]]:
    """Pods of the workloads whose names end so, started at once, for the length of a block."""
    started: dict[str, Future[Pod]] = {}
    try:
        with ThreadPoolExecutor(len(names)) as at_once:
            for name in names:
                workload = next(
                    one
                    for one in cluster.manifests
                    if one["kind"] in SERVES and one["metadata"]["name"].endswith(name)
                )
                started[name] = at_once.submit(start, cluster, workload)
        yield {name: future.result() for name, future in started.items()}
    finally:
        for future in started.values():
            if not future.exception():
                future.result().kill()


def _spawn(container: Container) -> Process:
    with _log_of(container).open("ab") as log:
        popen = subprocess.Popen(
            container.argv(), env=container.environment(), cwd=container.root, stdout=log, stderr=log
        )
    return Process(container, popen)


def _log_of(container: Container) -> Path:
    return container.cluster.folder / f"{container.name.replace('/', '-')}.log"
