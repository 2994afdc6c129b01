"""A run as JSON, as a plot and as a page."""

import importlib.metadata
import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivium.errors import ConfigurationError
from trivium.load.knee import Knee, Search
from trivium.load.result import Goal, StageResult
from trivium.load.stage import Plan
from trivium.load.target import Target

RESULTS = "results.json"
PLOT = "latency-by-rate.png"
PAGE = "latency-by-rate.html"


@dataclass(slots=True)
class Report:
    """Everything about a run that is worth keeping; no keys, no header values, no texts."""

    target: Target
    goal: Goal
    plan: Plan
    search: Search | None = None
    knee: Knee | None = None
    stages: list[StageResult] = field(default_factory=list)
    verdict: str = ""
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in results.json."""
        knee = self.knee and {"rate": self.knee.rate, "limited_by": self.knee.limited_by}
        return {
            "target": {
                "url": self.target.url,
                "deadline_ms": self.target.deadline_ms,
                "ready_url": self.target.ready and self.target.ready.url,
                "metrics_url": self.target.metrics and self.target.metrics.url,
                "headers": list(self.target.header_names),
                "bodies": len(self.target.requests),
            },
            "goal": asdict(self.goal),
            "plan": asdict(self.plan),
            "search": self.search and asdict(self.search),
            "started_at": self.started_at,
            "versions": versions(),
            "verdict": self.verdict,
            "knee": knee,
            "stages": [
                {**asdict(stage), "misses": stage.misses(self.goal), "errors": stage.errors}
                for stage in self.stages
            ],
        }


def versions() -> dict[str, str | int | None]:
    """What the generator ran on."""
    return {
        "trivium": _version("trivium"),
        "python": platform.python_version(),
        "httptools": _version("httptools"),
        "uvloop": _version("uvloop"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def check_can_plot() -> None:
    """Before a run of minutes, not after it.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("matplotlib is not installed: pip install 'trivium[load]', or use --no-plot")


def write_report(report: Report, folder: Path, *, plot: bool = True) -> list[Path]:
    """Writes results.json and, from two stages or one, the plot as PNG and HTML; returns their paths.

    Raises:
        OSError: the folder cannot be made or written to. ConfigurationError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(folder / RESULTS, json.dumps(report.to_dict(), indent=2) + "\n")]
    if plot and any(stage.latency for stage in report.stages):
        check_can_plot()
        from trivium.load.plot import draw, page

        draw(report, folder / PLOT)
        written += [folder / PLOT, _write(folder / PAGE, page(report))]
    return written


def _write(path: Path, text: str) -> Path:
    partial = path.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    return partial.replace(path)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
