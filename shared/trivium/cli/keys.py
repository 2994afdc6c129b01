"""`trivium keys`: API keys."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from trivium.cli.audited import audited, note
from trivium.cli.screen import Console
from trivium.errors import NotFound
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trivium.store.keys import KeyRepository

app = typer.Typer(help="API keys: shown once, stored hashed.", no_args_is_help=True)
console = Console(soft_wrap=False)
notes = Console(stderr=True, soft_wrap=True, highlight=False)
Given = TypeVar("Given")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST_S = 366 * 86_400


def _with_keys(work: "Callable[[KeyRepository], Awaitable[Given]]") -> Given:
    from trivium.store.engine import Database, migrate
    from trivium.store.keys import KeyRepository

    async def run() -> Given:
        database = Database(StoreSettings().resolved_database_url)
        try:
            await migrate(database)
            return await work(KeyRepository(database))
        finally:
            await database.close()

    return asyncio.run(run())


@app.command("create")
@audited(
    "keys.create",
    detail=("scopes", "features", "days", "requests_per_minute", "tokens_per_minute", "monthly_usd"),
)
def create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    scopes: Annotated[str, typer.Option(help="Some of infer,feedback,precompute,admin.")] = "infer,feedback",
    features: Annotated[
        str | None,
        typer.Option(help="Only these, as ticket-triage,route/chat; by default all features and routes."),
    ] = None,
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
    limited = None if features is None else _listed(features)
    key, secret = _with_keys(lambda keys: keys.create(name, _listed(scopes), days, allowance, limited))
    note(key=key.own_id)
    limits = f"; only {', '.join(sorted(key.features))}" if key.features else ""
    notes.print(f"key {key.own_id} ({', '.join(sorted(key.scopes))}{limits}); its secret:", markup=False)
    typer.echo(secret)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Lists keys, without their secrets; when each was last used is up to a minute behind."""
    rows = _with_keys(lambda keys: keys.list())
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(show_lines=True)
    table.add_column("key", min_width=36)  # an id is to be copied
    table.add_column("may, at most")
    table.add_column("times (UTC)")
    for row in rows:
        only = "all features" if row["features"] is None else ", ".join(row["features"])
        may = "\n".join([", ".join(row["scopes"]), only, *_limits(row)])
        who = f"{row['id']}\n{row['name']}"
        if row["replaces"]:
            who += f"\nreplaces\n{row['replaces']}"
        table.add_row(Text(who, no_wrap=True), Text(may), Text(_times(row)))
    console.print(table)


@app.command("rotate")
@audited("keys.rotate", target="key_id", detail=("overlap", "days"))
def rotate(
    key_id: Annotated[str, typer.Argument(help="As `list` shows it.")],
    overlap: Annotated[str, typer.Option(help="How long the old one works on, as 24h, 30m, 0s.")] = "24h",
    days: Annotated[
        float | None,
        typer.Option(help="The new one expires after so many; by default as the old.", min=0.001, max=36_500),
    ] = None,
) -> None:
    """Makes a key's successor and prints its secret; the old key ends after the overlap.

    It has the same scopes, features and limits, and the old key's answers and budget.
    """
    overlap_s = _seconds(overlap)
    key, secret, ends = _with_keys(lambda keys: keys.rotate(key_id, overlap_s, days))
    note(successor=key.own_id)
    notes.print(f"key {key.own_id} replaces {key_id}, which works until {_shown(ends)} UTC; its secret:")
    typer.echo(secret)


@app.command("revoke")
@audited("keys.revoke", target="key_id")
def revoke(key_id: Annotated[str, typer.Argument(help="As `list` shows it.")]) -> None:
    """Revokes a key; gateways refuse it within five seconds."""
    if not _with_keys(lambda keys: keys.revoke(key_id)):
        raise NotFound(f"There is no valid key {key_id}")
    typer.echo(f"revoked {key_id}")


def _times(row: dict[str, Any]) -> str:
    told = (("made", "created_at"), ("last used", "last_used_at"), ("expires", "expires_at"))
    times = {name: row[column] for name, column in told} | {"revoked": row["revoked_at"]}
    return "\n".join(f"{name} {_shown(seconds)}" for name, seconds in times.items() if seconds)


def _limits(row: dict[str, Any]) -> list[str]:
    units = {
        "requests_per_minute": "requests/min",
        "tokens_per_minute": "tokens/min",
        "monthly_usd": "USD/month",
    }
    return [f"{row[column]:,} {unit}" for column, unit in units.items() if row[column]]


def _listed(given: str) -> list[str]:
    return [one.strip() for one in given.split(",") if one.strip()]


def _seconds(given: str) -> float:
    found = re.fullmatch(r"(\d+)([smhd])", given)
    seconds: Any = int(found[1]) * _UNITS_S[found[2]] if found else None
    if seconds is None or seconds > _LONGEST_S:
        raise typer.BadParameter(
            f"{given!r}: a number and s, m, h or d, as 24h, at most 366d", param_hint="--overlap"
        )
    return float(seconds)


def _shown(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
