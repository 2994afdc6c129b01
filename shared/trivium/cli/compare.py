"""`trivium compare`: two variants side by side, on the dataset and on recorded traffic."""

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from trivium.cli.evaluate import opened, show_comparison, variant_of
from trivium.cli.screen import Console
from trivium.features import Feature, find_feature
from trivium.llm.settings import BackendSettings

if TYPE_CHECKING:
    from trivium.evals.traffic import Traffic
    from trivium.store.shadows import Agreement, ShadowRepository

    Shadowed = tuple[list[Agreement], list[dict[str, Any]]]

console = Console(soft_wrap=True)
EXAMPLES = 5


def compare(
    name: Annotated[str, typer.Argument(help="The feature.")],
    first: Annotated[str, typer.Argument(help="A variant, such as the served one.")],
    second: Annotated[str, typer.Argument(help="The variant that it is compared with.")],
    traffic: Annotated[
        int, typer.Option(min=0, max=100_000, help="Recorded questions that both are asked.")
    ] = 0,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Cases that run at once.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Shows quality, latency and cost of two variants on the dataset, on recorded traffic and in the shadow.

    Exits 1 if the second is significantly worse on the dataset.
    """
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)
    for variant in (first, second):
        variant_of(feature, variant)

    async def work() -> int:
        from trivium.evals.evaluate import between, evaluate
        from trivium.evals.traffic import on_traffic
        from trivium.store.questions import QuestionRepository
        from trivium.store.shadows import ShadowRepository

        async with opened(settings) as (backends, database):
            progress = sys.stdout.isatty() and not as_json
            made = [
                await evaluate(feature, variant, backends, at_once=at_once, progress=progress)
                for variant in (first, second)
            ]
            comparison = between(made[0].row(), made[0].scored, made[1])
            recorded = None
            if traffic:
                questions = await QuestionRepository(database).newest(feature.name, traffic)
                recorded = await on_traffic(feature, (first, second), backends, questions, at_once)
            shadow = await _shadow(ShadowRepository(database), feature, made)
        if as_json:
            typer.echo(json.dumps(_object(made, comparison, recorded, shadow)))
        else:
            _side_by_side(made)
            show_comparison(comparison)
            if recorded:
                _show_traffic(recorded, first, second)
            _show_shadow(*shadow)
        return int(bool(comparison.regressions))

    raise typer.Exit(asyncio.run(work()))


def _side_by_side(made: Any) -> None:
    from trivium.evals.reports import estimate

    table = Table("on the dataset", *(f"{one.variant} {one.version}" for one in made))
    for metric in made[0].summary.metrics:
        table.add_row(metric, *(estimate(one.summary.metrics.get(metric)) for one in made))
    table.add_row("failures", *(f"{one.summary.failures} of {one.summary.cases}" for one in made))
    table.add_row("P50 ms", *(estimate(one.summary.p50_ms) for one in made))
    table.add_row("P99 ms", *(estimate(one.summary.p99_ms) for one in made))
    costs = [one.summary.cost_usd for one in made]
    table.add_row("USD", *("not known" if cost is None else f"{cost:,.6f}" for cost in costs))
    console.print(table)


def _show_traffic(found: "Traffic", first: str, second: str) -> None:
    from trivium.evals.reports import estimate

    console.print(f"on {found.questions} recorded questions: agree on {estimate(found.agreed)}")
    table = Table("on traffic", first, second)
    table.add_row("failures", *(str(one.failures) for one in found.sides))
    table.add_row("as corrected", *(estimate(one.as_corrected) for one in found.sides))
    table.add_row("P50 ms", *(estimate(one.p50_ms) for one in found.sides))
    table.add_row("P99 ms", *(estimate(one.p99_ms) for one in found.sides))
    costs = [one.cost_usd for one in found.sides]
    table.add_row("USD", *("not known" if cost is None else f"{cost:,.6f}" for cost in costs))
    console.print(table)
    for given, ours, theirs in found.disagreements[:EXAMPLES]:
        console.print(f"  {given}\n      {first}: {ours}\n      {second}: {theirs}", markup=False)


async def _shadow(shadows: "ShadowRepository", feature: Feature, made: Any) -> "Shadowed":
    """What is known of either version in the shadow of the other, and examples of where they differ."""
    pairs = [(made[0], made[1]), (made[1], made[0])]
    agreements, examples = [], []
    for served, candidate in pairs:
        for one in await shadows.agreement(feature.name, candidate.variant, 0):
            if (one.served_version, one.version) == (served.version, candidate.version):
                agreements.append(one)
                found = await shadows.disagreements(feature.name, candidate.variant, 0, EXAMPLES)
                examples += [{"variant": candidate.variant, **row} for row in found]
    return agreements, examples


def _show_shadow(agreements: "list[Agreement]", examples: list[dict[str, Any]]) -> None:
    from trivium.evals.reports import estimate

    for one in agreements:
        console.print(
            f"in the shadow of {one.served_variant} {one.served_version}, {one.variant} {one.version}: asked "
            f"{one.asked}, failed {one.failed}, agrees {estimate(one.agreed)}, "
            f"mean {one.mean_latency_ms:.0f} ms, USD {one.cost_usd:,.6f}"
        )
    if examples:
        console.print("the newest disagreements, of any version:")
    for row in examples:
        console.print(
            f"  {row['input']}\n      served: {row['served']}\n      {row['variant']}: {row['candidate']}",
            markup=False,
        )


def _object(made: Any, comparison: Any, recorded: "Traffic | None", shadow: "Shadowed") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "variants": [one.row() for one in made],
        "differences": [{**asdict(one), "regression": one.regression} for one in comparison.differences],
        "flips": [asdict(one) for one in comparison.flips],
        "traffic": asdict(recorded) if recorded else None,
        "shadow": {"agreement": [asdict(one) for one in shadow[0]], "disagreements": shadow[1]},
    }
