"""A policy scan of what the chart makes; every finding that is left has its reason."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from support.charts import FILES, rendered

EXPLAINED = {
    "CKV_K8S_15": "IfNotPresent: tags are not moved, and a pod must start while the registry is away",
    "CKV_K8S_35": "settings are environment variables; they come from a Secret and are never logged",
    "CKV_K8S_43": "each image takes a digest (gateway.image.digest); these files are of nobody's build",
    "CKV_K8S_8": "a test's pod runs once; only the services have probes",
    "CKV_K8S_9": "a test's pod runs once; only the services have probes",
}
ONCE = ("-smoke", "-load-test", "-migrations")


@pytest.fixture(scope="module")
def checkov(root: Path) -> Path:
    """The scanner, from an environment of its own."""
    found = root / ".venv-policy/bin/checkov"
    if not found.exists():
        reason = "the policy scanner is not installed; scripts/setup-policy does that"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def test_the_policy_scan_finds_nothing_that_is_not_explained(checkov: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rendered"
    folder.mkdir()
    for file in FILES:
        (folder / file).write_text(yaml.safe_dump_all(rendered(file)))
    scanned = subprocess.run(
        [checkov, "-d", folder, "--framework", "kubernetes", "--skip-download", "-o", "json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LOG_LEVEL": "ERROR"},
    )
    told = json.loads(scanned.stdout)
    assert told["summary"]["passed"] > 300 * len(FILES), scanned.stderr
    for found in told["results"]["failed_checks"]:
        assert found["check_id"] in EXPLAINED, (found["check_id"], found["check_name"], found["resource"])
        if "once" in EXPLAINED[found["check_id"]]:
            assert found["resource"].endswith(ONCE), found["resource"]
