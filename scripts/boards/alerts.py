"""The alerts of deploy/prometheus, by which the dashboards show those that fire and no others."""

from pathlib import Path

import yaml

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"


def names() -> list[str]:
    """Of every alert, in the order of the alphabet."""
    groups = [group for path in RULES.glob("*.yaml") for group in yaml.safe_load(path.read_text())["groups"]]
    return sorted({rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule})


def firing() -> tuple[str, str]:
    """Matchers of ALERTS for those that fire."""
    return 'alertstate="firing"', f'alertname=~"{"|".join(names())}"'
