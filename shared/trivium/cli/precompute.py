"""`trivium precompute`: starts a run and shows how far it is."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trivium.domain.manifest import PrecomputedVariant
from trivium.errors import ConfigurationError, Unavailable
from trivium.features import Feature, LoadedVariant, find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.engine import Database

CHUNK = 128
POLL_S = 0.2
STILL_S = 60.0


def precompute(
    feature: Annotated[str, typer.Argument(help="A feature with a precomputed variant.")],
    wait: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Computes the results of every entity of a feature's archive, on the running worker."""
    settings = StoreSettings()
    loaded = find_feature(settings.features_dir, feature)
    if not loaded.precomputed:
        raise ConfigurationError(f"{feature} has no precomputed variant")
    asyncio.run(_start_and_watch(settings, loaded, wait))


async def start_run(database: "Database", feature: Feature, variant: LoadedVariant) -> str:
    """Stores a run over the archive as it is now; the worker finds it. Returns its id."""
    from trivium.store.archive import ArchiveRepository
    from trivium.store.precompute import PHASES, PrecomputeRepository

    assert isinstance(variant.spec, PrecomputedVariant)
    keys = await ArchiveRepository(database).keys(variant.spec.archive)
    return await PrecomputeRepository(database).start(
        feature.name, variant.name, variant.version, keys, PHASES, CHUNK
    )


async def watch(database: "Database", run_id: str, title: str, console: Console) -> None:
    """Shows a run's progress until it ends.

    Raises:
        ConfigurationError: the run failed. Unavailable: it has not moved for a minute.
    """
    from trivium.store.precompute import PrecomputeRepository

    ledger = PrecomputeRepository(database)
    columns = (TextColumn(f"  {title}, {{task.description}}"), BarColumn(), MofNCompleteColumn())
    still_s, done = 0.0, -1
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("waiting")
        while still_s < STILL_S:
            now = await ledger.progress(run_id)
            if now is None:
                raise ConfigurationError(f"There is no run {run_id}")
            bar.update(task, completed=now.done, total=now.total, description=now.phase)
            if now.state == "failed":
                raise ConfigurationError(f"The run {run_id} failed: {now.error}")
            if now.state != "running":
                return
            still_s, done = (still_s + POLL_S if now.done == done else 0.0), now.done
            await asyncio.sleep(POLL_S)
    raise Unavailable(f"The run {run_id} has not moved for {STILL_S:.0f} s: is the worker running?")


async def _start_and_watch(settings: StoreSettings, feature: Feature, wait: bool) -> None:
    from trivium.store.engine import Database

    console = Console(stderr=True)
    database = Database(settings.resolved_database_url)
    for variant in feature.precomputed:
        run_id = await start_run(database, feature, variant)
        typer.echo(run_id)
        if wait:
            await watch(database, run_id, f"{feature.name} {variant.name}", console)
            console.print(f"[green]done[/] {feature.name} {variant.name}")
    await database.close()
