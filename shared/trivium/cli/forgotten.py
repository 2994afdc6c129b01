"""What `trivium db forget` does: all sweeps, with a bar, counted by table."""

from collections import Counter

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from trivium.features import load_catalogue
from trivium.retention.forgetting import Forgetting
from trivium.retention.settings import RetentionSettings
from trivium.store.engine import Database


async def forget(database: Database, console: Console, *, dry: bool) -> dict[tuple[str, str], int]:
    """Forgets all that may go, or counts it; returns rows by table and reason.

    Raises:
        Unavailable: the database is away; what was done until then holds.
    """
    settings = RetentionSettings()
    forgetting = Forgetting(database, load_catalogue(settings.features_dir), settings)
    if not dry:
        await forgetting.know()
    total: Counter[tuple[str, str]] = Counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        async for sweep, step in forgetting.run(dry=dry):
            for name, rows in step.counts.items():
                total[name, sweep.why] += rows
            bar.update(task, description=f"{sweep.why}: {total[sweep.name, sweep.why]:,}")
    return dict(+total)
