"""`trivium eval`: a variant on the feature's fixed dataset; exits 1 on a failed gate or a regression."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from trivium.cli.screen import Console
from trivium.errors import NotFound
from trivium.features import Feature, find_feature
from trivium.llm.settings import BackendSettings

if TYPE_CHECKING:
    from trivium.evals.comparison import Flip
    from trivium.evals.evaluate import Comparison, Evaluated
    from trivium.patterns.steps import Backends
    from trivium.store.engine import Database

console = Console(soft_wrap=True)
SHOWN_FLIPS = 10


def evaluate(
    name: Annotated[str, typer.Argument(help="The feature.")],
    variant: Annotated[str | None, typer.Option(help="By default the served one.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with a stored evaluation: its id, a version, a variant, or `last`."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Times that each case is run.")] = 1,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Cases that run at once.")] = 2,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first cases; proves nothing, and is not stored.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report, for CI.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.")] = None,
) -> None:
    """Runs the feature's dataset through a variant's real chain and holds the scores against the gates.

    Exits 1 if a gate is not met, or if the comparison shows a significant regression.
    """
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)
    chosen = variant_of(feature, variant or feature.manifest.serve)
    for path in filter(None, (json_file, junit, html)):
        if not path.parent.is_dir():
            raise typer.BadParameter(f"{path}: there is no folder {path.parent}")

    async def work() -> int:
        from trivium.evals import reports
        from trivium.evals.evaluate import baseline_of, compare
        from trivium.evals.evaluate import evaluate as run
        from trivium.store.evaluations import EvaluationRepository

        async with opened(settings) as (backends, database):
            evaluations = EvaluationRepository(database)
            try:
                baseline = await baseline_of(feature, chosen, evaluations, against) if against else None
            except NotFound as error:
                raise typer.BadParameter(error.detail, param_hint="--against") from error
            made = await run(
                feature,
                chosen,
                backends,
                repeat=repeat,
                at_once=at_once,
                limit=limit,
                progress=sys.stdout.isatty(),
            )
            comparison = await compare(made, evaluations, baseline) if baseline else None
            if made.whole:
                await evaluations.add(made.row(), made.case_rows())
        for path, write in ((json_file, reports.as_json), (junit, reports.as_junit), (html, reports.as_html)):
            if path:
                path.write_text(write(made, comparison), encoding="utf-8")
        _show(made, comparison)
        failed = made.whole and not made.passed
        return int(failed or bool(comparison and comparison.regressions))

    raise typer.Exit(asyncio.run(work()))


def variant_of(feature: Feature, name: str) -> str:
    """The name, if there is such a variant; a wrong one is wrong usage."""
    if name not in feature.variants:
        known = ", ".join(feature.variants)
        raise typer.BadParameter(f"{feature.name} has no variant {name!r}; there are {known}")
    return name


@asynccontextmanager
async def opened(settings: BackendSettings) -> "AsyncIterator[tuple[Backends, Database]]":
    """What variants answer from, and the database, as the settings have them."""
    import aiohttp

    from trivium.patterns.steps import make_backends
    from trivium.store.engine import Database, migrate
    from trivium.store.results import ResultRepository

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            results = ResultRepository(database)
            yield make_backends(settings.with_key_of_up(), session, results), database
    finally:
        await database.close()


def _show(made: "Evaluated", comparison: "Comparison | None") -> None:
    from trivium.evals.reports import estimate

    summary = made.summary
    console.print(f"\n[bold]{made.feature.name}[/] {made.variant} {made.version}: {summary.cases} cases")
    table = Table("metric", "value (95 %)", "gate")
    gates = {gate.metric: gate for gate in made.gates}
    for metric, found in summary.metrics.items():
        gate = gates.get(metric)
        table.add_row(metric, estimate(found), _gate(gate) if gate else "")
    for metric, found in summary.passes_all.items():
        table.add_row(f"{metric}, right all {summary.repeats} times", estimate(found), "")
    console.print(table)
    for one in summary.slices:
        told = ", ".join(f"{metric} {estimate(found)}" for metric, found in one.metrics.items())
        console.print(f"  {one.name} = {one.value}, {one.cases} cases: {told}", markup=False)
    latency = f"P50 {estimate(summary.p50_ms)} ms, P99 {estimate(summary.p99_ms)} ms"
    cost = "not known" if summary.cost_usd is None else f"USD {summary.cost_usd:,.6f}"
    console.print(f"  {summary.failures} failures; {latency}; cost {cost}")
    _show_failures(made)
    if summary.unstable:
        console.print(f"  not scored alike every time: {', '.join(summary.unstable[:20])}")
    if comparison:
        show_comparison(comparison)
    if not made.whole:
        console.print("  only some of the cases were run: that proves nothing, and is not stored")
    elif made.passed:
        console.print(f"[green]passed[/]; stored as {made.id}")
    else:
        console.print(f"[red]not passed[/]; stored as {made.id}")


def _show_failures(made: "Evaluated") -> None:
    counts: dict[str, int] = {}
    for run in made.runs:
        if run.failure:
            why = run.failure.partition(":")[0]
            counts[why] = counts.get(why, 0) + 1
    for why, count in sorted(counts.items(), key=lambda item: -item[1]):
        console.print(f"    {why}: {count}", markup=False)


def show_comparison(comparison: "Comparison") -> None:
    """Prints what differs, by how much and how surely, and the cases that flipped."""
    from trivium.evals.reports import figure

    row = comparison.baseline
    console.print(f"\nagainst {row['variant']} {row['version']} ({row['id']})")
    for told in comparison.unlike:
        console.print(f"  not quite alike: {told}", style="yellow", markup=False)
    table = Table("metric", "before", "now", "difference (95 %)", "p, adjusted", "")
    for one in comparison.differences:
        told = "[red]regression[/]" if one.regression else "significant" if one.significant else ""
        between = f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
        table.add_row(
            one.metric, figure(one.baseline), figure(one.candidate), between, f"{one.adjusted_p:.4f}", told
        )
    console.print(table)
    for flip in comparison.flips[:SHOWN_FLIPS]:
        _show_flip(flip)
    if len(comparison.flips) > SHOWN_FLIPS:
        console.print(f"  and {len(comparison.flips) - SHOWN_FLIPS} more that flipped; `--html` shows them")


def _show_flip(flip: "Flip") -> None:
    from trivium.evals.reports import readable, said, words

    mark = "[green]+[/]" if flip.better else "[red]-[/]"
    console.print(f"  {mark} {flip.case_id} {flip.metric}", highlight=False)
    console.print(f"      asked    {readable(flip.input)}", markup=False, highlight=False)
    console.print(f"      expected {readable(flip.expected)}", markup=False, highlight=False)
    changed = words(said(flip.was), said(flip.now))
    for told, kind, style in (("was", "gone", "red"), ("is", "new", "green")):
        some = [Text(text, style if one == kind else "") for one, text in changed if one in ("same", kind)]
        console.print(Text(f"      {told:8} ") + Text(" ").join(some))


def _gate(gate: Any) -> str:
    wanted = [
        f"min {gate.min}" if gate.min is not None else "",
        f"max {gate.max}" if gate.max is not None else "",
    ]
    told = "[green]met[/]" if gate.passed else "[red]missed[/]"
    past = "" if gate.clears == gate.passed else ", within the interval"
    return f"{' '.join(filter(None, wanted))}: {told}{past}"
