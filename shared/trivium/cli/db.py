"""`trivium db`: the schema."""

import asyncio

import typer

from trivium.settings import StoreSettings

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command("upgrade")
def upgrade() -> None:
    """Brings the schema to the newest revision."""
    from trivium.store.engine import Database, migrate

    database = Database(StoreSettings().resolved_database_url)
    asyncio.run(migrate(database))
    typer.echo(f"migrated {database.url.render_as_string(hide_password=True)}")


@app.command("check")
def check() -> None:
    """Fails if the tables in the code differ from those in the database."""
    from alembic import command

    from trivium.store.engine import Database, alembic_config

    command.check(alembic_config(Database(StoreSettings().resolved_database_url).url))
