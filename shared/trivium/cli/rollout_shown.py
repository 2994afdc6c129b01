"""How the commands about rollouts show what they have read: for people, for a review, and as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from trivium.domain.inference import Arm

if TYPE_CHECKING:
    from trivium.domain.rollout import Decision
    from trivium.domain.scorecard import Metrics, Verdict
    from trivium.rollouts.status import FeatureStatus
    from trivium.store.outcomes import Part

NO_FIGURE = "-"
MEASURED = {
    "adoption": "adoption",
    "override_rate": "override rate",
    "p50_ms": "P50",
    "p99_ms": "P99",
    "error_rate": "errors",
}
_COUNTED: "tuple[tuple[str, Callable[[Metrics], int]], ...]" = (
    ("subjects", lambda metrics: metrics.subjects),
    ("requests", lambda metrics: metrics.requests),
    ("judged", lambda metrics: metrics.judged),
)


def show(console: Console, status: "FeatureStatus") -> None:
    """Prints a feature's stage, metrics of both arms, verdicts, and what they support."""
    from trivium.rollouts.status import verdict_line

    standing = status.standing
    days = "" if standing.days is None else f" for {standing.days:.1f} days"
    console.print(f"\n[bold]{status.feature}[/] in [bold]{standing.stage.value}[/]{days}")
    console.print(f"  serves {status.variant} {status.version}, owner {status.owner}")
    if standing.percent is not None:
        console.print(f"  the flag is on for {standing.percent} % of the subjects")
    console.print(f"  counted since {_time(status.since)}")
    table = Table("", "treatment", "control")
    arms = [status.arms.get(arm) for arm in Arm]
    for label, count in _COUNTED:
        table.add_row(label, *(NO_FIGURE if one is None else f"{count(one):,}" for one in arms))
    for metric, label in MEASURED.items():
        table.add_row(label, *(figure(metric, one) for one in arms))
    console.print(table)
    for verdict in status.judgement.verdicts:
        console.print(f"  {verdict_line(verdict)}", markup=False)
    console.print(f"supports: [bold]{status.supports.replace('_', ' ')}[/]")
    for why in status.why:
        console.print(f"  {why}", markup=False)


def figure(metric: str, metrics: "Metrics | None", verdicts: "Sequence[Verdict]" = ()) -> str:
    """One metric with its interval, its n, and what it says by its gate, if that is among the verdicts."""
    from trivium.rollouts.status import shown

    found = getattr(metrics, metric) if metrics else None
    if found is None:
        return NO_FIGURE
    low, high = shown(metric, found.low), shown(metric, found.high)
    says = [f", {verdict.says}" for verdict in verdicts if verdict.metric == metric]
    return f"{shown(metric, found.value)} ({low} to {high}, n {found.n:,}){''.join(says)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that one can paste into a review."""
    cells = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells)


def status_row(status: "FeatureStatus") -> list[str]:
    """A feature as a row under STATUS_COLUMNS."""
    days = status.standing.days
    verdicts = status.judgement.verdicts
    return [
        status.feature,
        status.standing.stage.value,
        NO_FIGURE if days is None else f"{days:.1f}",
        f"{status.treatment.subjects:,}",
        *(figure(metric, status.treatment, verdicts) for metric in MEASURED),
        status.supports.replace("_", " "),
        "; ".join(status.why),
    ]


STATUS_COLUMNS = ("feature", "stage", "days", "subjects", *MEASURED.values(), "supports", "why")
PART_COLUMNS = ("feature", "part", "arm", *(label for label, _ in _COUNTED), *MEASURED.values())


def part_row(feature: str, part: "Part") -> list[str]:
    """A day, version or stage of one arm as a row under PART_COLUMNS."""
    counts = [f"{count(part.metrics):,}" for _, count in _COUNTED]
    return [feature, part.part, part.arm.value, *counts, *(figure(one, part.metrics) for one in MEASURED)]


def status_object(status: "FeatureStatus") -> dict[str, Any]:
    """A status as JSON."""
    decision = status.standing.decision
    return {
        "feature": status.feature,
        "owner": status.owner,
        "variant": status.variant,
        "version": status.version,
        "stage": status.standing.stage.value,
        "days": status.standing.days,
        **status.figures(),
        "decided_by": decision.decided_by if decision else None,
        "reason": decision.reason if decision else None,
    }


def part_object(feature: str, part: "Part") -> dict[str, Any]:
    """A day, version or stage of one arm as JSON."""
    return {"feature": feature, "part": part.part, "arm": part.arm.value, **asdict(part.metrics)}


def decision_object(decision: "Decision") -> dict[str, Any]:
    """A decision as JSON."""
    return asdict(decision)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _time(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
