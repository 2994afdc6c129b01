"""The committed dashboards, and what stands in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
RULES = sorted((FOLDER.parents[1] / "prometheus" / "rules").glob("*.yaml"))
RATE_WINDOW = "30s"
VALUES = {"namespace": ".*", "__rate_interval": RATE_WINDOW, "__range": "1h", "feature": "ticket-triage"}
"""What Grafana would put in place of the variables."""


@dataclass(frozen=True)
class Asked:
    """One expression of a dashboard."""

    board: str
    panel: str
    expr: str
    legend: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}"


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels but for the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked(path: Path) -> Iterator[Asked]:
    """Every expression of panels and annotations."""
    board = load(path)
    for panel in panels(board):
        for target in panel["targets"]:
            yield Asked(path.stem, panel["title"], target["expr"], target.get("legendFormat", ""))
    for event in board["annotations"].get("list", []):
        yield Asked(path.stem, event["name"], event["expr"], "")
