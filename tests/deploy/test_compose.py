"""The compose file names what is there, confines every service, and its secrets are made once."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_worker.settings import WorkerSettings
from edge_model.settings import EdgeSettings
from gateway.settings import GatewaySettings
from support.images import NAMES, ROOT
from support.prometheus import promtool
from trivium.settings import Settings

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)")
SETTINGS: dict[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "migrations": GatewaySettings,
    "batch-worker": WorkerSettings,
    "edge-model": EdgeSettings,
    "local-llm": Settings,
}
each_service = pytest.mark.parametrize("name", SERVICES)


def _mounts(name: str) -> list[tuple[str, str]]:
    parts = [mount.split(":") for mount in SERVICES[name].get("volumes", [])]
    return [(part[0], part[1]) for part in parts]


@each_service
def test_what_a_service_names_is_defined(name: str) -> None:
    service = SERVICES[name]
    for other, needs in service.get("depends_on", {}).items():
        assert other in SERVICES
        if needs["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"
        elif needs["condition"] == "service_healthy":
            built = SERVICES[other]["image"].startswith("trivium/")
            assert built or SERVICES[other]["healthcheck"]["test"]
    assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    for source, _ in _mounts(name):
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@each_service
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service.get("cap_add")
    assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged")
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service.get("user", "10001").split(":")[0] != "0"
    assert "/tmp" in service["tmpfs"]
    if service.get("ports"):
        assert "outside" in service["networks"], "ports of an internal network are not published"


@each_service
def test_images_have_a_version_and_ours_a_dockerfile(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"])
    if service["image"].startswith("trivium/"):
        own = service["image"].removeprefix("trivium/").split(":")[0]
        assert own in NAMES and service["build"]["dockerfile"] == f"deploy/docker/{own}.Dockerfile"
        assert (DEPLOY / service["build"]["context"]).resolve() == ROOT


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_is_a_setting(name: str) -> None:
    known = {f"TRIVIUM_{field.upper()}" for field in SETTINGS[name].model_fields}
    assert set(SERVICES[name]["environment"]) <= known


def test_secrets_are_made_once_and_are_all_that_is_asked_for(tmp_path: Path) -> None:
    words = [ROOT / "scripts/compose-secrets", tmp_path]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    made = (tmp_path / ".env").read_text()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    values = dict(line.split("=", 1) for line in made.splitlines() if "=" in line)
    assert set(VARIABLE.findall((DEPLOY / "compose.yaml").read_text())) == set(values)
    assert (tmp_path / "secrets/service-key").read_text() == values["TRIVIUM_SERVICE_KEY"]
    random = [value for value in values.values() if value]
    assert len(set(random)) == len(random) and min(map(len, random)) >= 64
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    assert (tmp_path / ".env").read_text() == made


def test_secrets_have_no_default_and_are_not_committed() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert re.findall(r"\$\{\w+:-[^}]", text) == []
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/.env", "deploy/secrets/service-key"], cwd=ROOT, capture_output=True
    )
    assert ignored.returncode == 0 and len(ignored.stdout.splitlines()) == 2


def test_prometheus_takes_its_configuration_and_rules(tmp_path: Path) -> None:
    """Its paths are those of the mounts; promtool is given the mounts' sources for them."""
    text = (DEPLOY / "prometheus/prometheus.yaml").read_text("utf-8")
    (tmp_path / "service-key").write_text("own")
    for source, target in _mounts("prometheus"):
        if source.startswith("."):
            text = text.replace(target, str((DEPLOY / source).resolve()))
    text = text.replace("/run/secrets", str(tmp_path))
    assert "/etc/" not in text and "/run/" not in text
    (tmp_path / "prometheus.yaml").write_text(text)
    done = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(list((DEPLOY / "prometheus/rules").glob("*.yaml")))
    ports = {"gateway": 8080, "batch-worker": 8084, "edge-model": 8081}
    scraped = [job["static_configs"][0]["targets"][0] for job in yaml.safe_load(text)["scrape_configs"]]
    assert sorted(scraped) == sorted(f"{host}:{port}" for host, port in ports.items())


def test_grafana_finds_its_source_and_dashboards() -> None:
    mounted = {target: (DEPLOY / source).resolve() for source, target in _mounts("grafana")}
    provisioning = mounted["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards/trivium.yaml").read_text())["providers"]
    boards = list(mounted[provider["options"]["path"]].glob("*.json"))
    assert boards and all(json.loads(board.read_text())["uid"] for board in boards)
