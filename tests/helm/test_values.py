"""Values: nonsense is refused by its name, and whatever is allowed makes objects that fit together."""

import copy
import json
from typing import Any

import helm_python
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from support.charts import CHART, FILES, render, values_of
from support.cluster import check_schema, faults, versions

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
VALID = jsonschema_rs.validator_for(SCHEMA)
NAMES = ("global", "nameOverride", "fullnameOverride")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a key misspelt": ({"gatway": {}}, "gatway"),
    "a deeper key misspelt": ({"gateway": {"journal": {"kind": "emptyDir", "siez": "1Gi"}}}, "siez"),
    "an environment with default secrets": ({"environment": "development"}, "/environment"),
    "half a core for the edge model": (
        {"edge": {"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}},
        "/edge/resources/limits/cpu",
    ),
    "a privileged port": ({"gateway": {"port": 80}}, "/gateway/port"),
    "a key in plain sight": ({"gateway": {"env": {"TRIVIUM_OPENAI_API_KEY": "x"}}}, "TRIVIUM_OPENAI_API_KEY"),
    "an ingress for no host": ({"expose": {"kind": "ingress"}}, "/expose/host"),
    "a route without a gateway": ({"expose": {"kind": "httpRoute", "host": "a.b"}}, "/expose/parentRefs"),
    "models from nowhere": ({"edge": {"models": {"source": "url"}}}, "/edge/models"),
    "models without a checksum": (
        {"edge": {"models": {"source": "url", "url": "s3://b/m", "items": [{"model": "a/1"}]}}},
        "sha256",
    ),
    "no features": ({"features": {"source": "files"}}, "/features/files"),
    "fewer at most than at least": (
        {"gateway": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}},
        "gateway.autoscaling.minReplicas is 5",
    ),
    "a budget that forbids every drain": (
        {"gateway": {"podDisruptionBudget": {"minAvailable": 2}}},
        "gateway.podDisruptionBudget.minAvailable is 2 of 2",
    ),
    "no time to drain": (
        {"gateway": {"preStopSeconds": 60}},
        "gateway.terminationGracePeriodSeconds is 40",
    ),
    "no time to hand back": ({"worker": {"graceSeconds": 60}}, "worker.terminationGracePeriodSeconds is 40"),
    "two on one port of a pod": ({"edge": {"mode": "sidecar", "port": 8080}}, "edge.port 8080"),
    "one port for both protocols": (
        {"edge": {"grpcPort": 8081}},
        "edge.port and edge.grpcPort are both 8081",
    ),
}


def _closed(schema: dict[str, Any], path: str = "") -> list[str]:
    """Where a schema of an object lets keys through that nobody knows."""
    found = []
    if (
        schema.get("type") == "object"
        and "properties" in schema
        and schema.get("additionalProperties") is not False
    ):
        found.append(path)
    for name, part in schema.get("properties", {}).items():
        found += _closed(part, f"{path}/{name}")
    return found


def test_no_unknown_key_is_let_through_anywhere() -> None:
    assert _closed(SCHEMA) == []
    for name, definition in SCHEMA["definitions"].items():
        assert _closed(definition, name) == []


def test_every_value_has_a_schema_and_every_schema_a_default() -> None:
    def names(schema: dict[str, Any], path: str = "") -> set[str]:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[-1]]
        own = schema.get("properties", {})
        return {f"{path}/{name}" for name in own}.union(*(names(own[n], f"{path}/{n}") for n in own))

    def given_in(values: Any, path: str = "") -> set[str]:
        if not isinstance(values, dict):
            return set()
        return {f"{path}/{n}" for n in values}.union(*(given_in(values[n], f"{path}/{n}") for n in values))

    missing = {name for name in names(SCHEMA) if name not in given_in(values_of("values.yaml"))}
    # Helm's own; and what no default can show.
    assert {name for name in missing if not name.startswith("/global")} <= {
        *(f"/networkPolicy/{part}" for part in ("clients", "monitoring", "dns")),
    }


@pytest.mark.parametrize("name", REFUSED)
def test_nonsense_is_refused_by_name(name: str) -> None:
    values, told = REFUSED[name]
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert told in str(refused.value)


def _of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values by a schema, as far as this one goes; what only a condition forbids is sorted out afterwards."""
    if "$ref" in schema:
        return _of(SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[-1]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema.get("maximum", 2**31))
        case "string":
            return (
                st.from_regex(schema["pattern"], fullmatch=True)
                if "pattern" in schema
                else st.text("ab:", max_size=5)
            )
        case "array":
            return st.lists(_of(schema["items"]), max_size=2)
        case "object" if "properties" in schema:
            parts = {name: _of(part) for name, part in schema["properties"].items()}
            needed = {name: parts.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(needed, optional=parts)
        case "object":
            names = st.from_regex(
                schema.get("propertyNames", {}).get("pattern", "^[a-z]{1,9}$"), fullmatch=True
            )
            values = (
                _of(schema["additionalProperties"])
                if "additionalProperties" in schema
                else st.just({"targets": []})
            )
            return st.dictionaries(names, values, max_size=2)
        case [*_]:
            return st.one_of(st.text("ab", max_size=5), st.integers(0, 9), st.booleans())
    raise AssertionError(schema)


def _strategy() -> st.SearchStrategy[dict[str, Any]]:
    """Valid values, each key given or left to its default."""
    parts = {name: _of(part) for name, part in SCHEMA["properties"].items() if name not in NAMES}
    return st.fixed_dictionaries({}, optional=parts).filter(VALID.is_valid)


def _given(values: dict[str, Any]) -> set[tuple[str, str]]:
    """What the operator brings, by these values."""
    whole = copy.deepcopy(values_of("values.yaml"))
    for name, part in values.items():
        whole[name] = {**whole[name], **part} if isinstance(part, dict) else part
    secrets = {
        whole["secret"]["name"],
        whole["tests"]["keySecret"]["name"],
        whole["loadTest"]["keySecret"]["name"],
    }
    return {
        *(("Secret", one) for one in secrets),
        ("ConfigMap", whole["features"].get("configMap", {}).get("name", "")),
    }


@settings(
    max_examples=8,
    # Shrinking takes minutes, for each try renders the chart.
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(_strategy())
def test_whatever_is_allowed_makes_objects_that_fit_together(values: dict[str, Any]) -> None:
    try:
        manifests = render(values)
    except helm_python.HelmError as error:
        refused = str(error)
    else:
        refused = ""
    # Values that contradict each other are told, in our words; nothing else may go wrong.
    assert not refused or "execution error" in refused, (values, refused)
    assume(not refused)
    assert list(faults(manifests, _given(values))) == []
    for manifest in manifests:
        check_schema(manifest, versions()[-1])


def test_the_files_for_laptop_staging_and_production_are_there() -> None:
    assert set(FILES) == {
        "values.yaml",
        *(f"values-{kind}.yaml" for kind in ("laptop", "staging", "production")),
    }
