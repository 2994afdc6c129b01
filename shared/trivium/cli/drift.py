"""`trivium drift`: whether traffic still looks as it did when it was right."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Column, Table

from trivium.cli.audited import audited, made
from trivium.cli.screen import Console
from trivium.errors import TriviumError
from trivium.features import Feature, find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.domain.drift import DriftReport
    from trivium.drift.checking import DriftCheck
    from trivium.store.drift import StoredReference

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
NOTHING_TO_SAY = 2


@audited(
    "drift.reference",
    which=lambda given: "drift.reference" if given["reference"] or given["reset_reference"] else None,
    detail=("reference", "reset_reference"),
)
def drift(
    name: Annotated[str, typer.Argument(help="The feature.")],
    window: Annotated[
        int | None, typer.Option(min=50, max=20_000, help="Newest inferences; default the manifest's.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Make the records of a CSV or JSONL file the reference.")
    ] = None,
    reset_reference: Annotated[
        bool, typer.Option("--reset-reference", help="Make the newest inferences the reference.")
    ] = False,
) -> None:
    """Compares the newest inferences with the reference, column by column.

    Exits 1 when a column has drifted, 2 when there is nothing to say yet or something is wrong.
    """
    if reference and reset_reference:
        raise typer.BadParameter("goes without --reference", param_hint="--reset-reference")
    settings = StoreSettings()
    try:
        feature = find_feature(settings.features_dir, name)
        report = asyncio.run(_run(settings, feature, window, reference, reset_reference))
        if report:
            _show(report)
            _write(report, html, as_json)
    except TriviumError as error:
        errors.print(error.detail, style="red", markup=False, highlight=False)
        raise typer.Exit(NOTHING_TO_SAY) from error
    except OSError as error:
        errors.print(f"{error.filename or 'drift'}: {error.strerror or error}", style="red", markup=False)
        raise typer.Exit(NOTHING_TO_SAY) from error
    if report is None:
        raise typer.Exit(0 if reset_reference else NOTHING_TO_SAY)
    raise typer.Exit(int(report.drifted))


async def _run(
    settings: StoreSettings, feature: Feature, window: int | None, file: Path | None, reset: bool
) -> "DriftReport | None":
    import aiohttp

    from trivium.domain.drift import DriftReport
    from trivium.drift.checking import DriftCheck
    from trivium.edge import EdgeClient
    from trivium.store.drift import DriftRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        async with aiohttp.ClientSession() as session:
            with Progress(console=errors, transient=True) as progress:
                key = settings.with_key_of_up().service_key.get_secret_value()
                edge = EdgeClient(settings.resolved_edge_url, key, session)
                check = DriftCheck(DriftRepository(database), edge, _Bars(progress).show)
                known = await _reference(check, feature, file, reset)
                if isinstance(known, str):
                    errors.print(known, markup=False)
                    return None
                found = await check.check(feature, known, window or feature.manifest.drift.window)
        if isinstance(found, DriftReport):
            return found
        errors.print(f"nothing to compare yet: {found.why}", markup=False)
        return None
    finally:
        await database.close()


async def _reference(
    check: "DriftCheck", feature: Feature, file: Path | None, reset: bool
) -> "StoredReference | str":
    """What windows are compared with, or why there is nothing to compare."""
    from trivium.drift.checking import NotEnough
    from trivium.drift.files import read_reference

    found: StoredReference | NotEnough
    if file:
        source = f"{file.name} of the command line"
        found = await check.make_reference(feature, read_reference(file, feature), source, dated=False)
        await made()
    elif reset:
        found = await check.reset(feature)
        if not isinstance(found, NotEnough):
            return f"the reference is now {found.source}; what comes after it is compared with it"
    else:
        found = await check.reference(feature)
    return f"no reference yet: {found.why}" if isinstance(found, NotEnough) else found


class _Bars:
    """A progress bar for each thing that takes its time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[tuple[str, int], int] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """See checking.Progress."""
        if (what, total) not in self._bars:
            self._bars[what, total] = self._progress.add_task(what, total=total)
        self._progress.update(self._bars[what, total], completed=done)  # type: ignore[arg-type]


def _show(report: "DriftReport") -> None:
    from trivium.drift.page import moment

    console.print(f"\n[bold]{report.feature}[/]: {report.variant} {report.version}")
    console.print(
        f"  {report.rows:,} inferences from {moment(report.window_from)} to {moment(report.window_until)} UTC"
    )
    console.print(f"  beside {report.reference_rows:,}: {report.reference}", markup=False)
    table = Table(Column("column", no_wrap=True), "statistic", "threshold", "p", "drifted", "values")
    for column in report.columns:
        drifted = "[red]yes[/]" if column.drifted else "no"
        figures = (f"{column.statistic:.4f}", f"{column.threshold:.4f}", f"{column.p_value:.4f}", drifted)
        table.add_row(column.name, *figures, f"{column.window_rows:,}")
    console.print(table)
    for column in report.columns:
        if column.drifted:
            console.print(f"  {column.name}: {column.change}", markup=False)
    for name, why in report.absent.items():
        console.print(f"  not compared: {name}: {why}", markup=False)
    finest, rate = 1 / (report.resamples + 1), report.false_discovery_rate
    console.print(
        f"  p from {report.resamples:,} draws, so none is under {finest:.5f}; "
        f"of what drifted at most {rate:.0%} is false on average"
    )


def _write(report: "DriftReport", html: Path | None, as_json: Path | None) -> None:
    from trivium.drift.page import page_of

    if html:
        html.write_text(page_of(report), "utf-8")
    if as_json:
        as_json.write_text(json.dumps(report.as_object(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    for path in (html, as_json):
        if path:
            typer.echo(f"wrote {path}")
