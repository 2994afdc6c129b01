"""What the documentation of the chart says to type: its values are valid, and what it names is there."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from support.charts import containers, find, render, values_of
from support.cluster import check_schema, versions
from trivium.cli.main import app

NAME = "trivium"
TEXT = (Path(__file__).parents[2] / "docs/how-to/deploy-on-kubernetes.md").read_text("utf-8")
VALUES = {
    block.splitlines()[0].strip(): yaml.safe_load(block)
    for block in re.findall(r"^ *```yaml\n *(# values: .*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
}
LINES = [
    line.strip()
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
]


def _words(line: str) -> list[str]:
    return shlex.split(line.replace("<", "'<'").replace("|", " | "))


def _executed() -> list[str]:
    return [line for text in LINES for line in re.findall(r"kubectl[^$|]* exec [^)]*", text)]


def test_the_examples_were_found() -> None:
    assert len(VALUES) == 6 and len(LINES) >= 11 and len(_executed()) == 3


@pytest.mark.parametrize("example", VALUES)
@pytest.mark.parametrize("file", ["values.yaml", "values-staging.yaml", "values-production.yaml"])
def test_values_of_an_example_are_taken(example: str, file: str) -> None:
    assert render({**values_of(file), **VALUES[example]})


def test_values_that_are_set_on_the_command_line_are_taken(root: Path) -> None:
    set_by: dict[str, Any] = {}
    for line in LINES:
        for option, given in pairwise(_words(line)):
            if option not in ("--set", "--set-file"):
                continue
            path, _, value = given.partition("=")
            *parts, last = (part.replace("\0", ".") for part in path.replace("\\.", "\0").split("."))
            inner = set_by
            for part in parts:
                inner = inner.setdefault(part, {})
            inner[last] = (root / value).read_text("utf-8") if option == "--set-file" else value
    assert set(set_by["features"]["files"]) == {"flags.json", "ticket-triage/feature.yaml"}
    held = find(render(set_by), "ConfigMap", "-features")["data"]
    assert held["ticket-triage__feature.yaml"].startswith("# yaml-language-server")


def test_what_commands_name_is_there() -> None:
    manifests = render({}, NAME)
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in manifests}
    there |= {("deploy", name) for kind, name in there if kind == "deployment"}
    kept = render({"gateway": {"journal": {"kind": "persistentVolume", "size": "1Gi"}}}, NAME)
    there |= {(one["kind"].lower(), one["metadata"]["name"]) for one in kept}
    for kind, name in re.findall(r"\b(deploy|statefulset)/([a-z-]+)", TEXT):
        if name != "trivium":  # a folder
            assert (kind, name) in there
    (service, port) = re.findall(r"`http://([a-z-]+)\.trivium:(\d+)`", TEXT)[0]
    assert find(manifests, "Service", service)["spec"]["ports"][0]["port"] == int(port)
    for line in _executed():
        assert re.search(r"deploy/trivium-worker -c worker -- trivium ", line), line
    assert "worker" in {container["name"] for _, container in containers(manifests)}


@pytest.mark.parametrize("line", _executed())
def test_commands_in_containers_exist_with_their_options(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = _words(line.partition(" -- trivium ")[2].strip(' "'))
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts}
    assert not hasattr(command, "commands")
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("helm ")])
def test_commands_of_helm_name_the_chart_and_the_release(line: str, root: Path) -> None:
    words = _words(line)
    assert words[1] in ("install", "upgrade", "test", "uninstall")
    assert words[2] == NAME and words[words.index("-n") + 1] == NAME
    if words[1] in ("install", "upgrade"):
        assert (root / words[3] / "Chart.yaml").is_file()


def test_keys_of_the_secret_are_those_that_the_chart_reads() -> None:
    wanted = {key for key in values_of("values.yaml")["secret"]["keys"].values() if key}
    for line in LINES:
        if "secret generic trivium " in line:
            assert set(re.findall(r"--from-literal=([a-z-]+)=", line)) == wanted
    smoke = values_of("values.yaml")["tests"]["keySecret"]
    assert f"secret generic {smoke['name']}" in TEXT and f"--from-literal={smoke['key']}=" in TEXT


@pytest.mark.parametrize("name", ["gateway", "worker", "edge"])
def test_the_table_of_probes_is_the_charts(name: str) -> None:
    (spec,) = (c for _, c in containers(render()) if c["name"] == name)
    row = next(line for line in TEXT.partition("## Probes")[2].splitlines() if line.startswith(f"| {name} |"))
    told = [re.findall(r"`(/[a-z0-9/]+)`", cell)[0] for cell in row.strip("|").split("|")[1:]]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    assert told == [spec[probe]["httpGet"]["path"] for probe in probes]


def test_paths_that_are_named_in_the_text_are_there(root: Path) -> None:
    for path in re.findall(r"`((?:helm|tests|deploy|models|features)/[\w./-]+)`", TEXT):
        assert (root / path).exists(), path


def test_names_that_look_like_numbers_and_truth_stay_names() -> None:
    keys = {"serviceKey": "1", "databaseUrl": "1e3", "redisUrl": "true"}
    values = {
        "nameOverride": "7",
        "secret": {"name": "9", "keys": keys},
        "image": {"pullSecrets": ["0"]},
        "expose": {"kind": "ingress", "host": "*.example.com", "ingressClassName": "1", "tlsSecret": "2"},
        "features": {"source": "files", "files": {"flags.json": "{}", "8": "x"}},
        "monitoring": {"serviceMonitor": {"enabled": True}, "dashboards": {"enabled": True, "label": "5"}},
        "tests": {"enabled": True, "keySecret": {"name": "3", "key": "null"}},
        "worker": {"autoscaling": {"kind": "keda"}, "priorityClassName": "4"},
    }

    def strings(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and strings(item) for key, item in value.items())
        return all(map(strings, value)) if isinstance(value, list) else True

    manifests = render(values, "6")
    assert all(map(strings, manifests))
    for manifest in manifests:
        check_schema(manifest, versions()[-1])


def test_what_hooks_leave_is_taken_away_by_the_last_commands() -> None:
    """Helm forgets what a hook made, unless the hook's success deletes it."""
    (line,) = (
        line for line in LINES if "kubectl" in line and " delete " in line and "serviceaccount" in line
    )
    told = set(line.split(" delete ")[1].split()[0].split(","))
    manifests = render({"loadTest": {"enabled": True}}, NAME)
    hooks = [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    left = {
        one["kind"].lower()
        for one in hooks
        if "hook-succeeded" not in one["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    }
    assert left <= told
    label = line.split(" -l ")[1].split("=")
    assert all(one["metadata"]["labels"][label[0]] == label[1] for one in hooks)
    (smoke,) = (one for one in hooks if one["kind"] == "Pod")
    # `helm test --logs` reads them when it is over.
    assert "succeeded" not in smoke["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
