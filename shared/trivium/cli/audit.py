"""`trivium audit`: who did what, and whether it was done."""

import asyncio
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from trivium.cli.screen import Console
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.audit import AuditEvent, AuditFilter

console = Console(soft_wrap=True, highlight=False)
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


def audit(
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 2026-01-31, 2026-01-31T12:00, or 30m, 24h, 7d ago.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Of one: cli:<user>, key:<id> or guard.")] = None,
    action: Annotated[
        str | None, typer.Option(help="One, as keys.create, or all of a kind, as keys.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="To one feature, key, run or file.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Shows the audit log, the newest first: every administrative act, the refused ones too."""
    from trivium.store.audit import AuditFilter

    wanted = AuditFilter(None if since is None else _moment(since), actor, action, target)
    events = asyncio.run(_read(limit, after, wanted))
    if as_json:
        for event in events:
            typer.echo(json.dumps(asdict(event), ensure_ascii=False))
        return
    _show(events)
    if len(events) == limit:
        typer.echo(f"there may be more: --after {events[-1].id}", err=True)


async def _read(limit: int, after: str | None, wanted: "AuditFilter") -> "list[AuditEvent]":
    from trivium.store.audit import AuditRepository
    from trivium.store.engine import Database, migrate

    database = Database(StoreSettings().resolved_database_url)
    try:
        await migrate(database)
        return await AuditRepository(database).list(limit, after, wanted)
    finally:
        await database.close()


def _show(events: "list[AuditEvent]") -> None:
    if not events:
        console.print("nothing that fits is in the audit log")
        return
    table = Table()
    for column in ("time (UTC)", "actor", "action", "target", "outcome", "detail"):
        table.add_column(column, overflow="fold")
    for event in events:
        moment = datetime.fromtimestamp(event.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        detail = ", ".join(f"{name}: {_value(value)}" for name, value in (event.detail or {}).items())
        cells = (moment, event.actor, event.action, event.target, event.outcome, detail)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(given: str) -> float:
    """Unix seconds of a time, UTC unless it says otherwise, or of so long ago."""
    if found := re.fullmatch(r"(\d{1,6})([mhd])", given):
        return time.time() - int(found[1]) * _UNITS_S[found[2]]
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        told = f"{given!r}: a time as 2026-01-31T12:00, or how long ago, as 24h"
        raise typer.BadParameter(told, param_hint="--since") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
