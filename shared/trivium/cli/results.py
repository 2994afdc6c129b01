"""`trivium results`: what is stored, and what may go."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from trivium.cli.audited import audited
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import NotFound
from trivium.features import Catalogue, load_catalogue
from trivium.settings import StoreSettings

app = typer.Typer(help="Stored results.", no_args_is_help=True)
DAY_S = 86_400


@app.command("list")
def list_results() -> None:
    """Shows how much each variant has stored."""
    asyncio.run(_list(StoreSettings()))


@app.command("prune")
@audited(
    "results.prune",
    target="feature",
    which=lambda given: None if given["dry_run"] else "results.prune",
    detail=("runs_days",),
)
def prune(
    feature: Annotated[str | None, typer.Argument(help="By default all features.")] = None,
    runs_days: Annotated[float, typer.Option(help="Also forgets runs that ended so many days ago.")] = 30.0,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be dropped.")] = False,
) -> None:
    """Drops results that can no longer be served, and old runs, a portion at a time.

    Those are the results of variants that the manifests no longer have, of entities that are no longer in
    the archive, and of more than the variant's hard_max_age_s.
    """
    settings = StoreSettings()
    catalogue = load_catalogue(settings.features_dir)
    if feature is not None:
        catalogue.get(feature)
    asyncio.run(_prune(settings, catalogue, feature, runs_days, dry_run))


async def _list(settings: StoreSettings) -> None:
    from trivium.store.engine import Database
    from trivium.store.results import ResultRepository

    database = Database(settings.resolved_database_url)
    try:
        stored = await ResultRepository(database).stored()
    finally:
        await database.close()
    table = Table("feature", "variant", "results", "MB", "bytes each")
    for one in stored:
        each = one.bytes / one.rows if one.rows else 0
        table.add_row(one.feature, one.variant, f"{one.rows:,}", f"{one.bytes / 1e6:,.1f}", f"{each:,.0f}")
    Console().print(table)


async def _prune(
    settings: StoreSettings, catalogue: Catalogue, feature: str | None, runs_days: float, dry_run: bool
) -> None:
    from trivium.store.engine import Database
    from trivium.store.results import ResultRepository
    from trivium.store.runs import RunRepository

    console = Console(stderr=True)
    database = Database(settings.resolved_database_url)
    results, runs = ResultRepository(database), RunRepository(database)
    try:
        for stored in await results.stored():
            if feature not in (None, stored.feature):
                continue
            archive, before, why = _what_may_go(catalogue, stored.feature, stored.variant)
            of = (stored.feature, stored.variant)
            if dry_run:
                count = await results.count_to_prune(*of, archive=archive, before=before)
                typer.echo(f"{stored.feature} {stored.variant}: {count} of {stored.rows} would go: {why}")
                continue
            portion = partial(results.prune, *of, archive=archive, before=before)
            dropped = await _all_portions(console, " ".join(of), portion)
            typer.echo(f"{stored.feature} {stored.variant}: dropped {dropped} of {stored.rows}: {why}")
        if feature is None and not dry_run:
            limit = time.time() - runs_days * DAY_S
            rows = await _all_portions(console, "runs", partial(runs.prune, limit))
            typer.echo(f"runs that ended over {runs_days:g} days ago: dropped {rows} rows")
    finally:
        await database.close()


def _what_may_go(catalogue: Catalogue, feature: str, variant: str) -> tuple[str | None, float | None, str]:
    """The archive that a result's entity must be in (None: all may go), and the oldest moment."""
    try:
        spec = catalogue.get(feature).manifest.variants.get(variant)
    except NotFound:
        spec = None
    if not isinstance(spec, PrecomputedVariant):
        return None, None, "the manifests no longer have the variant"
    before = time.time() - spec.hard_max_age_s
    return spec.archive, before, f"not in the archive {spec.archive}, or over {spec.hard_max_age_s} s old"


async def _all_portions(console: Console, what: str, portion: Callable[[], Awaitable[int]]) -> int:
    total = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        while gone := await portion():
            total += gone
            bar.update(task, description=f"{what}: {total:,} dropped")
    return total
