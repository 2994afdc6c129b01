"""`trivium status`: every feature's stage and figures, as a table that one can paste into a review."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from trivium.cli.rollout import NO_FIGURE, RolloutSettings, as_object, with_rollouts
from trivium.features import load_catalogue

if TYPE_CHECKING:
    from trivium.domain.estimate import Estimate
    from trivium.rollouts.stages import Rollouts
    from trivium.rollouts.status import FeatureStatus
    from trivium.store.outcomes import OutcomeRepository

COLUMNS = (
    *("feature", "stage", "days", "subjects", "adoption", "override rate", "P50", "P99", "errors"),
    *("supports", "why"),
)


def status(
    name: Annotated[str | None, typer.Argument(help="A feature; by default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Prints each feature's stage, its four metrics and the decision that they support, as Markdown."""
    settings = RolloutSettings()
    catalogue = load_catalogue(settings.features_dir)
    chosen = [catalogue.get(name)] if name else list(catalogue)

    async def work(rollouts: "Rollouts", outcomes: "OutcomeRepository") -> int:
        from trivium.rollouts.status import status_of

        rows = [await status_of(feature, rollouts, outcomes) for feature in chosen]
        if as_json:
            for row in rows:
                typer.echo(json.dumps(as_object(row)))
        else:
            typer.echo(table_of(rows))
        return 0

    asyncio.run(with_rollouts(settings, work))


def table_of(rows: "list[FeatureStatus]") -> str:
    """A Markdown table, a row a feature."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)])


def _cells(row: "FeatureStatus") -> list[str]:
    metrics = row.treatment
    days = row.standing.days
    return [
        row.feature,
        row.standing.stage.value,
        NO_FIGURE if days is None else f"{days:.1f}",
        f"{metrics.subjects:,}",
        _of("adoption", metrics.adoption),
        _of("override_rate", metrics.override_rate),
        _of("p50_ms", metrics.p50_ms),
        _of("p99_ms", metrics.p99_ms),
        _of("error_rate", metrics.error_rate),
        row.supports.replace("_", " "),
        "; ".join(row.why).replace("|", "/").replace("\n", " "),
    ]


def _of(metric: str, found: "Estimate | None") -> str:
    from trivium.rollouts.status import shown

    if found is None:
        return NO_FIGURE
    return f"{shown(metric, found.value)} ({shown(metric, found.low)}-{shown(metric, found.high)})"


def _line(cells: "list[str] | tuple[str, ...]") -> str:
    return f"| {' | '.join(cells)} |"
