"""`trivium edge-cases`: where the answers are wrong, for a weekly review."""

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from trivium.cli.screen import Console
from trivium.errors import StepError
from trivium.features import Feature, find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.edge_cases.finding import EdgeCase
    from trivium.store.edge_cases import Answer, Window

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
MOST = 10_000
UNSURE = 0.5


def edge_cases(
    name: Annotated[str, typer.Argument(help="The feature.")],
    days: Annotated[float, typer.Option(min=0.01, max=366, help="To look back.")] = 7,
    top: Annotated[int, typer.Option(min=1, max=100, help="Groups to show.")] = 5,
    unsure: Annotated[
        float, typer.Option(min=0, max=1, help="Confidence under which an answer counts as unsure.")
    ] = UNSURE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page.")] = None,
) -> None:
    """Groups what users put right and what the model was unsure of, and ranks the groups by their cost."""
    settings = StoreSettings().with_key_of_up()
    feature = find_feature(settings.features_dir, name)
    window, found, how = asyncio.run(_find(settings, feature, days, top, unsure))
    about = {
        "feature": name,
        "days": days,
        "total": window.total,
        "read": len(window.answers),
        "vectors": how,
    }
    if html:
        html.write_text(_page({**about, "found": found}), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({**about, "edge_cases": [asdict(one) for one in found]}))
    else:
        _show(about, found)


async def _find(
    settings: StoreSettings, feature: Feature, days: float, top: int, unsure: float
) -> "tuple[Window, list[EdgeCase], str]":
    from trivium.edge_cases.finding import find
    from trivium.store.edge_cases import EdgeCaseRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        since = time.time() - days * 86_400
        window = await EdgeCaseRepository(database).window(feature.name, since, MOST)
    finally:
        await database.close()
    if not window.answers:
        return window, [], "none"
    with errors.status(f"embedding {len(window.answers):,} texts"):
        vectors, how = await _vectors(settings, feature, window.answers)
    with errors.status("grouping"):
        return window, await asyncio.to_thread(find, window.answers, vectors, unsure=unsure, top=top), how


async def _vectors(settings: StoreSettings, feature: Feature, answers: "list[Answer]") -> tuple[Any, str]:
    """Vectors by the feature's edge model; without one, or while it is away, by the texts' words."""
    import aiohttp
    import numpy as np

    from trivium.edge import EdgeClient
    from trivium.edge_cases.texts import text_of, tf_idf

    texts = [text_of(answer.input) for answer in answers]
    model = feature.manifest.embedding_model
    if model is None:
        return tf_idf(texts), "words: no variant of the feature names an edge model"
    async with aiohttp.ClientSession() as session:
        edge = EdgeClient(settings.resolved_edge_url, settings.service_key.get_secret_value(), session)
        try:
            # The edge model takes no empty text.
            found = await edge.embed(model, [text if text.strip() else "-" for text in texts])
        except StepError as error:
            return tf_idf(texts), f"words: {error.detail}"
    return np.asarray(found, dtype=np.float32), model


def _show(about: dict[str, Any], found: "list[EdgeCase]") -> None:
    total, read = about["total"], about["read"]
    seen = f"the last {about['days']:g} days: {read:,} of {total:,} inferences"
    console.print(f"\n[bold]{about['feature']}[/], {seen}")
    if read < total:
        console.print("  the others are older than the newest 10,000, or their payload was not kept")
    if about["vectors"].startswith("words"):
        console.print(f"  grouped by {about['vectors']}", markup=False)
    if not found:
        console.print(
            "  nothing that was put right, or that the model was unsure of, comes three times or more"
        )
        return
    table = Table("", "about", "inferences", "subjects", "wrong (95 %)", "impact", "should be")
    for place, one in enumerate(found, start=1):
        rate = f"{one.rate.value:.0%} ({one.rate.low:.0%} to {one.rate.high:.0%}), n {one.known}"
        counts = (f"{one.frequency:,}", f"{one.subjects:,}", rate, f"{one.impact:,.0f}")
        table.add_row(str(place), escape(one.name), *counts, escape(one.correction or ""))
    console.print(table)
    for place, one in enumerate(found, start=1):
        for example in one.examples:
            right = f", right: {example.corrected}" if example.corrected else ""
            console.print(f"  {place}. {example.text}\n     {example.output}{right}", markup=False)


def _page(values: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("trivium.edge_cases", "."), autoescape=True)
    return environment.get_template("report.html.j2").render(**values)
