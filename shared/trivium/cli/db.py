"""`trivium db`: the schema, what may be forgotten, and copies."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from trivium.cli.audited import audited, note
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.engine import Database

app = typer.Typer(help="The database.", no_args_is_help=True)
Given = TypeVar("Given")


@app.command("upgrade")
@audited("db.upgrade", target="revision")
def upgrade(
    revision: Annotated[str, typer.Argument(help="Where to stop; by default the newest.")] = "head",
) -> None:
    """Brings the schema to the newest revision, or to another that is newer than its own."""
    from trivium.store.schema import move

    async def run(database: "Database") -> None:
        await move(database, revision, up=True)
        typer.echo(f"migrated {_shown(database)}")

    _with_database(run)


@app.command("downgrade")
@audited("db.downgrade", target="revision")
def downgrade(revision: Annotated[str, typer.Argument(help="As in `trivium db current`, or base.")]) -> None:
    """Brings the schema back to an older revision; what that has no place for is dropped."""
    from trivium.store.schema import move

    async def run(database: "Database") -> None:
        await move(database, revision, up=False)
        typer.echo(f"{_shown(database)} is at {revision}")

    _with_database(run)


@app.command("current")
def current() -> None:
    """Says at which revision the schema is, and which one this version of Trivium is made for.

    Exits 1 if the schema is older: `trivium db upgrade` is due.
    """
    from trivium.store.schema import Schema, revisions, schema_of

    async def run(database: "Database") -> Schema:
        return await schema_of(database)

    found = _with_database(run)
    for revision, told in revisions():
        here = "  <- the database" if revision == found.revision else ""
        typer.echo(f"{revision}  {told}{here}")
    if found.fault:
        typer.echo(found.fault, err=True)
        raise typer.Exit(1)
    if found.is_newer:
        typer.echo(f"the database is at {found.revision}, newer than this version of Trivium")


@app.command("check")
def check() -> None:
    """Fails if the tables in the code differ from those in the database."""
    from alembic import command

    from trivium.store.engine import Database, alembic_config

    command.check(alembic_config(Database(StoreSettings().resolved_database_url).url))


@app.command("backup")
@audited("db.backup", target="file")
def backup(
    file: Annotated[Path, typer.Argument(help="The copy; must not be there yet.")],
) -> None:
    """Copies a SQLite database while it is in use; for PostgreSQL there is pg_dump."""
    from trivium.store.backup import copy_to

    async def run(database: "Database") -> int:
        return await copy_to(database, file)

    size = _with_database(run)
    typer.echo(f"wrote {file}: {size / 1e6:,.1f} MB, checked")


@app.command("forget")
@audited("db.forget", target="", which=lambda given: None if given["dry_run"] else "db.forget")
def forget(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Takes away what has been kept long enough, as a worker does every hour.

    It works in portions, so it can be stopped at any time, and runs beside a worker.
    """
    from trivium.cli.forgotten import forget as forget_all

    async def run(database: "Database") -> dict[tuple[str, str], int]:
        return await forget_all(database, Console(stderr=True), dry=dry_run)

    rows = _with_database(run)
    note(rows=sum(rows.values()))
    table = Table("table", "rows", "why")
    for (name, why), count in rows.items():
        table.add_row(name, f"{count:,}", why)
    if rows:
        Console(soft_wrap=True).print(table)
    verb = "would go" if dry_run else "went"
    typer.echo(f"{sum(rows.values()):,} rows {verb}" if rows else f"nothing {verb}")


def _with_database(what: "Callable[[Database], Awaitable[Given]]") -> Given:
    from trivium.store.engine import Database

    async def run() -> Given:
        database = Database(StoreSettings().resolved_database_url)
        try:
            return await what(database)
        finally:
            await database.close()

    return asyncio.run(run())


def _shown(database: "Database") -> str:
    return database.url.render_as_string(hide_password=True)
