"""`trivium costs`: what was spent, and what each stage of the rollout would cost."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from trivium.domain.manifest import SHADOW
from trivium.domain.projection import Interval
from trivium.domain.route import PREFIX, parse_routes
from trivium.features import load_catalogue
from trivium.llm.settings import BackendSettings

if TYPE_CHECKING:
    from trivium.store.costs import Costs

console = Console(soft_wrap=True)


def costs(
    name: Annotated[str | None, typer.Argument(help="A feature, or route/<name>; by default all.")] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="To look back, today included.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Shows what was spent and, with 95 % intervals, what a month would cost at each share of the traffic."""
    settings = BackendSettings()
    budgets = _budgets(settings)
    if name is not None and name not in budgets:
        known = ", ".join(budgets)
        raise typer.BadParameter(f"{name!r} is neither a feature nor a route; there are {known}")
    chosen = budgets if name is None else {name: budgets[name]}
    for one in asyncio.run(_read(settings, chosen, days)):
        if as_json:
            typer.echo(json.dumps(asdict(one)))
        else:
            _show(one)


def _budgets(settings: BackendSettings) -> dict[str, float | None]:
    budgets: dict[str, float | None] = {}
    for feature in load_catalogue(settings.features_dir):
        budgets[feature.name] = feature.manifest.budget.monthly_usd
        if shadow := feature.manifest.shadow:
            budgets[SHADOW + feature.name] = shadow.monthly_usd
    file = settings.resolved_routes_file
    if file.is_file():
        routes = parse_routes(file.read_text(encoding="utf-8"), str(file)).routes
        budgets |= {PREFIX + name.removeprefix(PREFIX): route.monthly_usd for name, route in routes.items()}
    return budgets


async def _read(settings: BackendSettings, budgets: dict[str, float | None], days: int) -> "list[Costs]":
    from trivium.store.costs import CostRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        repository = CostRepository(database)
        return [await repository.of(name, days, budget) for name, budget in budgets.items()]
    finally:
        await database.close()


def _show(costs: "Costs") -> None:
    made = costs.projection
    budget = "no budget" if costs.budget_usd is None else f"of {_usd(costs.budget_usd)}"
    console.print(f"\n[bold]{costs.name}[/]: {_usd(costs.month_usd)} this month, {budget}")
    if made.per_request is None:
        console.print(f"  no request with a known price in the last {made.days} days")
        return
    console.print(
        f"  {made.treated:,} of {made.eligible:,} requests got the AI in {made.days} days; "
        f"{_interval(made.per_request)} a request"
    )
    if made.unpriced:
        console.print(f"  {made.unpriced:,} had an attempt of unknown price and are left out: a lower bound")
    table = Table("share", "USD a month", "95 %", "")
    for one in made.projected:
        over = "over budget" if one.over_budget else ""
        between = f"{one.month.low:,.2f} to {one.month.high:,.2f}"
        table.add_row(f"{one.share:.0%}", f"{one.month.usd:,.2f}", between, over)
    console.print(table)
    console.print(f"  intervals cover {made.basis}")
    targets = Table("variant", "target", "attempts", "failed", "unpriced", "tokens in", "out", "USD")
    for spent in costs.by_target:
        counts = [f"{n:,}" for n in (spent.attempts, spent.failed, spent.unpriced, spent.input, spent.output)]
        targets.add_row(spent.variant or "", spent.target, *counts, f"{spent.cost_usd:,.6f}")
    console.print(targets)


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:,.6f}"


def _interval(found: Interval) -> str:
    return f"${found.usd:,.6f} ({found.low:,.6f} to {found.high:,.6f})"
