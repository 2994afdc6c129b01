"""Every variable that the chart sets is one that the process in that container reads, and none is missing."""

import math
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from batch_worker.settings import WorkerSettings
from edge_model.settings import EdgeSettings
from gateway.settings import GatewaySettings
from support.charts import FILES, containers, find, pod_of, render, rendered
from trivium.cli.smoke import KEY
from trivium.load.options import LoadSettings
from trivium.settings import Settings, StoreSettings

COMMANDS: dict[tuple[str, ...], type[BaseSettings] | None] = {
    ("python", "-m", "gateway"): GatewaySettings,
    ("python", "-m", "batch_worker"): WorkerSettings,
    ("python", "-m", "edge_model"): EdgeSettings,
    ("python", "-m", "edge_model.fetch"): None,
    ("trivium", "db", "upgrade"): StoreSettings,
    ("trivium", "smoke"): Settings,
    ("trivium", "load"): LoadSettings,
}
STANDARD = ("OTEL_", "PYTHON", "PGSSLROOTCERT")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Of the libraries that numpy and scipy multiply matrices with."""
STORES = {"TRIVIUM_DATABASE_URL", "TRIVIUM_REDIS_URL", "TRIVIUM_EDGE_URL"}
SERVED = {"TRIVIUM_ENVIRONMENT", "TRIVIUM_HOST", "TRIVIUM_STATE_DIR", "TRIVIUM_SERVICE_KEY"}
NEEDED: dict[tuple[str, ...], set[str]] = {
    ("python", "-m", "gateway"): {*SERVED, *STORES, "TRIVIUM_FEATURES_DIR", "TRIVIUM_GATEWAY_PORT"},
    ("python", "-m", "batch_worker"): {*SERVED, *STORES, "TRIVIUM_FEATURES_DIR", "TRIVIUM_WORKER_PORT"},
    ("python", "-m", "edge_model"): {
        *SERVED,
        *("TRIVIUM_MODELS_DIR", "TRIVIUM_EDGE_PORT", "TRIVIUM_EDGE_GRPC_PORT", "TRIVIUM_EDGE_SLOTS"),
    },
    ("trivium", "db", "upgrade"): {"TRIVIUM_ENVIRONMENT", "TRIVIUM_DATABASE_URL", "TRIVIUM_SERVICE_KEY"},
    ("trivium", "smoke"): {"TRIVIUM_FEATURES_DIR", "TRIVIUM_API_KEY"},
    ("trivium", "load"): {"TRIVIUM_FEATURES_DIR", "TRIVIUM_API_KEY"},
}
EVERYTHING = {
    "secret": {
        "name": "trivium",
        "keys": {
            "serviceKey": "a",
            "databaseUrl": "b",
            "redisUrl": "c",
            "databaseCa": "i",
            "unleashToken": "d",
            "unleashAdminToken": "e",
            "openaiApiKey": "f",
            "anthropicApiKey": "g",
            "googleApiKey": "h",
        },
    },
    "unleash": {"url": "https://unleash.example.com/api"},
    "llm": {"localBaseUrl": "http://llm:8000/v1"},
    "otel": {"endpoint": "http://collector:4318"},
    "routes": {"route/chat": {"targets": [{"provider": "local", "model": "m"}]}},
    "loadTest": {"enabled": True},
}


def _known(settings: type[BaseSettings] | None) -> set[str]:
    """The names that a class of settings reads."""
    if settings is None:
        return set()
    found = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        found |= (
            set(map(str, alias.choices)) if isinstance(alias, AliasChoices) else {f"TRIVIUM_{name.upper()}"}
        )
    return found


def _command(container: dict[str, Any]) -> tuple[str, ...]:
    words = tuple(container["command"])
    return next(known for known in sorted(COMMANDS, key=len, reverse=True) if words[: len(known)] == known)


def _cases() -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    charts = {file: rendered(file) for file in FILES} | {"everything": render(EVERYTHING)}
    for file, manifests in charts.items():
        for workload, container in containers(manifests):
            name = f"{file}/{workload['metadata']['name']}/{container['name']}"
            yield name, _command(container), container


CASES = list(_cases())


@pytest.mark.parametrize(("command", "container"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_container_has_the_variables_that_its_process_reads_and_no_other(
    command: tuple[str, ...], container: dict[str, Any]
) -> None:
    given = {variable["name"] for variable in container.get("env", ())}
    known = _known(COMMANDS[command])
    if command == ("trivium", "smoke"):
        known |= {KEY}
    unknown = {name for name in given - known if not name.startswith(STANDARD) and name not in THREADS}
    assert unknown == set()
    assert NEEDED.get(command, set()) <= given


@pytest.mark.parametrize(("command", "container"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_no_process_makes_more_threads_than_it_has_cores(
    command: tuple[str, ...], container: dict[str, Any]
) -> None:
    given = {variable["name"]: variable.get("value") for variable in container.get("env", ())}
    limit = str(container["resources"]["limits"]["cpu"])
    cores = int(limit[:-1]) / 1000 if limit.endswith("m") else int(limit)
    if command == ("python", "-m", "edge_model"):
        assert int(given["TRIVIUM_EDGE_SLOTS"]) * int(given["TRIVIUM_EDGE_THREADS_PER_RUN"]) == cores
    if command == ("python", "-m", "batch_worker"):
        assert {given.get(name) for name in THREADS} == {str(math.ceil(cores))}


@pytest.mark.parametrize(("limit", "threads"), [("250m", "1"), ("1", "1"), ("1500m", "2"), ("4", "4")])
def test_threads_are_the_cores_of_the_limit_rounded_up(limit: str, threads: str) -> None:
    manifests = render({"worker": {"resources": {"limits": {"cpu": limit}}}})
    (worker,) = (c for _, c in containers(manifests) if c["name"] == "worker")
    given = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert [given[name] for name in THREADS] == [threads, threads]


def test_the_database_is_verified_where_its_certificates_are_given() -> None:
    keys = {"serviceKey": "a", "databaseUrl": "b", "redisUrl": "c", "databaseCa": "ca.pem"}
    manifests = render({"secret": {"name": "given", "keys": keys}})
    seen = set()
    for workload, container in containers(manifests):
        given = {variable["name"]: variable.get("value") for variable in container.get("env", ())}
        if "TRIVIUM_DATABASE_URL" not in given:
            assert "PGSSLROOTCERT" not in given
            continue
        seen.add(container["name"])
        folder, _, file = str(given["PGSSLROOTCERT"]).rpartition("/")
        (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == folder)
        (volume,) = (one for one in pod_of(workload)["volumes"] if one["name"] == mount["name"])
        assert volume["secret"] == {
            "secretName": "given",  # pragma: allowlist secret
            "items": [{"key": "ca.pem", "path": file}],
        }
    assert seen == {"gateway", "worker", "migrations"}


@pytest.mark.parametrize("mode", ["service", "sidecar"])
def test_who_fetches_models_may_have_an_image_and_credentials_of_its_own(mode: str) -> None:
    models = {
        "source": "url",
        "url": "s3://models/of-ours",
        "items": [{"model": "a/1", "sha256": "0" * 64}],
        "credentialsSecret": "keys-of-the-store",  # pragma: allowlist secret
        "image": {"repository": "with-s3fs"},
    }
    annotations = {"iam.example.com/role": "reads-models"}
    edge = {"mode": mode, "models": models, "env": {"AWS_REGION": "eu-1"}}
    manifests = render({"edge": {**edge, "serviceAccountAnnotations": annotations}})
    found = [c for _, c in containers(manifests) if c["name"] == "fetch-models"]
    assert len(found) == {"service": 1, "sidecar": 2}[mode]
    for container in found:
        assert container["image"].partition(":")[0] == "with-s3fs"
        assert container["envFrom"] == [{"secretRef": {"name": "keys-of-the-store"}}]
        assert container["env"] == [{"name": "AWS_REGION", "value": "eu-1"}]
    others = [c for _, c in containers(manifests) if c["name"] != "fetch-models"]
    assert not any("envFrom" in c or c["image"].startswith("with-s3fs") for c in others)
    account = find(manifests, "ServiceAccount", "-edge")["metadata"]
    assert account["annotations"] == annotations


@pytest.mark.parametrize(
    "features",
    [
        {"source": "files", "files": {"a/feature.yaml": "x"}},
        {
            "source": "configMap",
            "configMap": {"name": "a", "items": [{"key": "x", "path": "a/feature.yaml"}]},
        },
    ],
)
def test_features_without_flags_are_refused_unless_unleash_has_them(features: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError, match=r"flags\.json, and unleash\.url is empty"):
        render({"features": features})
    assert render({"features": features, "unleash": {"url": "https://unleash.example.com/api"}})
