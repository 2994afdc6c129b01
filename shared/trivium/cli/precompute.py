"""`trivium precompute`: starts a run and shows how far it is."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console as AnyConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trivium.cli.audited import audited, made
from trivium.cli.screen import Console
from trivium.errors import ConfigurationError, InvalidRequest, Unavailable
from trivium.features import find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.engine import Database
    from trivium.store.runs import NewRun, RunProgress

POLL_S = 0.2
STILL_S = 60.0


@audited("runs.start", target="feature", detail=("variant", "source", "force"))
def precompute(
    feature: Annotated[str, typer.Argument(help="A feature with a precomputed variant.")],
    variant: Annotated[str | None, typer.Option(help="By default the one that is served.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A JSONL or CSV, a path or a URL; `source` for the manifest's. By default the archive.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option(help="With one wrong line take none.")] = False,
    force: Annotated[bool, typer.Option(help="Also what has not changed.")] = False,
    queue: Annotated[bool, typer.Option(help="While another run is under way, wait for its end.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key, the same run.")] = None,
    wait: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Computes, on the running worker, the results of all entities that are new or have changed."""
    from trivium.precompute.starting import new_run, precomputed_variant

    settings = StoreSettings()
    loaded = find_feature(settings.features_dir, feature)
    chosen, spec = precomputed_variant(loaded, variant)
    where: dict[str, Any] = {"kind": "archive"}
    if source == "source":
        if spec.source is None:
            raise InvalidRequest(f"--from source: {feature} {chosen.name} has no source in its manifest")
        where = {"kind": "source", "strict": strict}
    elif source:
        where = {"kind": "url", "url": _absolute(source), "strict": strict}
    new = new_run(loaded, chosen, where, force=force, idempotency_key=key)
    asyncio.run(_start_and_watch(settings, new, "queue" if queue else "refuse", wait))


async def watch(database: "Database", run_id: str, title: str, console: AnyConsole) -> "RunProgress":
    """Shows a run's progress until it ends, and returns it.

    Raises:
        ConfigurationError: the run failed or was cancelled. Unavailable: it has not moved for a minute.
    """
    from trivium.store.runs import RunRepository

    runs = RunRepository(database)
    columns = (TextColumn(f"  {title}, {{task.description}}"), BarColumn(), MofNCompleteColumn())
    still_s, before = 0.0, None
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("waiting", total=None)
        while still_s < STILL_S:
            now = await runs.progress(run_id)
            speed = f", {now.rate:,.0f}/s" if now.rate else ""
            told = f"{now.state}: {now.phase}{speed}" if now.state == "queued" else f"{now.phase}{speed}"
            bar.update(task, completed=now.steps_done, total=now.steps or None, description=told)
            if now.state in ("failed", "cancelled"):
                raise ConfigurationError(f"The run {run_id} {now.state}: {now.error}")
            if now.ended:
                return now
            place = (now.steps_done, now.steps, now.phase, now.state)
            still_s, before = (still_s + POLL_S if place == before else 0.0), place
            await asyncio.sleep(POLL_S)
    raise Unavailable(f"The run {run_id} has not moved for {STILL_S:.0f} s: is the worker running?")


async def _start_and_watch(settings: StoreSettings, new: "NewRun", overlap: str, wait: bool) -> None:
    from trivium.store.engine import Database
    from trivium.store.runs import RunRepository

    console = Console(stderr=True)
    database = Database(settings.resolved_database_url)
    try:
        run_id, created = await RunRepository(database).start(new, overlap=overlap)
        await made(run=run_id)
        typer.echo(run_id)
        if not created:
            console.print(f"the run of the key {new.idempotency_key!r} stands already")
        if not wait:
            return
        ended = await watch(database, run_id, f"{new.feature} {new.variant}", console)
        for bad in ended.line_errors:
            where, why = escape(str(bad["line"])), escape(bad["message"])
            console.print(f"[red]line {where}[/]: {why}", highlight=False)
        console.print(f"[green]{ended.state}[/] {new.feature} {new.variant}: {told(ended)}")
        if ended.state == "done_with_errors":
            raise typer.Exit(1)
    finally:
        await database.close()


def told(run: "RunProgress") -> str:
    """What became of a run's entities, in a line."""
    parts = [f"{run.computed} computed"]
    for count, name in (
        (run.unchanged, "unchanged"),
        (run.abstained, "abstained"),
        (run.failed, "failed"),
        (run.gone, "gone"),
        (run.bad_lines, "lines wrong"),
    ):
        if count:
            parts.append(f"{count} {name}")
    rate = f", {run.rate:,.0f} a second" if run.rate else ""
    cost = f", {run.cost_usd:.4f} USD" if run.cost_usd else ""
    return ", ".join(parts) + rate + cost


def _absolute(source: str) -> str:
    if "://" in source:
        return source
    path = Path(source)
    if not path.is_file():
        raise InvalidRequest(f"--from {source}: there is no such file")
    return str(path.resolve())
