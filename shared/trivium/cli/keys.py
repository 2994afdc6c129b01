"""`trivium keys`: API keys."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from trivium.errors import NotFound
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.keys import KeyRepository

app = typer.Typer(help="API keys: shown once, stored hashed.", no_args_is_help=True)


def _repository() -> "KeyRepository":
    from trivium.store.engine import Database, migrate
    from trivium.store.keys import KeyRepository

    database = Database(StoreSettings().resolved_database_url)
    asyncio.run(migrate(database))
    return KeyRepository(database)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    scopes: Annotated[str, typer.Option(help="Some of infer,feedback,precompute,admin.")] = "infer,feedback",
    days: Annotated[
        float | None, typer.Option(help="Expires after so many days.", min=0.001, max=36_500)
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="At most so many.", min=1)] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="At most so many tokens of foundation models.", min=1)
    ] = None,
    monthly_usd: Annotated[
        float | None, typer.Option(help="What it may spend a month.", min=0.000001)
    ] = None,
) -> None:
    """Makes a key and prints its secret, which is not shown again."""
    from trivium.store.keys import Allowance

    allowance = Allowance(requests_per_minute, tokens_per_minute, monthly_usd)
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key, secret = asyncio.run(_repository().create(name, wanted, days, allowance))
    Console(stderr=True).print(f"key {key.id} ({', '.join(sorted(key.scopes))}); its secret:")
    typer.echo(secret)


@app.command("list")
def list_keys() -> None:
    """Lists keys, without their secrets."""
    table = Table("id", "name", "scopes", "made", "expires", "revoked", "a minute", "tokens", "USD a month")
    for row in asyncio.run(_repository().list()):
        times = [_shown(row[column]) for column in ("created_at", "expires_at", "revoked_at")]
        limits = [row[column] for column in ("requests_per_minute", "tokens_per_minute", "monthly_usd")]
        shown = ["" if limit is None else f"{limit:,}" for limit in limits]
        table.add_row(row["id"], row["name"], ", ".join(row["scopes"]), *times, *shown)
    Console().print(table)


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="As `list` shows it.")]) -> None:
    """Revokes a key; gateways refuse it within five seconds."""
    if not asyncio.run(_repository().revoke(key_id)):
        raise NotFound(f"There is no valid key {key_id}")
    typer.echo(f"revoked {key_id}")


def _shown(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
