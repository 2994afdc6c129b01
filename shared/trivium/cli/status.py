"""`trivium status`: every feature's stage and figures, as a table that one can paste into a review."""

import asyncio
import enum
import json
from typing import Annotated, Any

import typer

from trivium.cli.rollout_shown import (
    PART_COLUMNS,
    STATUS_COLUMNS,
    markdown,
    part_object,
    part_row,
    status_object,
    status_row,
)
from trivium.cli.rollout_sources import RolloutSettings, opened
from trivium.features import Feature, load_catalogue


class By(enum.StrEnum):
    """What the metrics are split by."""

    DAY = "day"
    VARIANT = "variant"
    STAGE = "stage"


def status(
    name: Annotated[str | None, typer.Argument(help="A feature; by default all.")] = None,
    by: Annotated[By | None, typer.Option(help="Split the last 30 days, treatment beside control.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Prints each feature's stage, its four metrics and the decision that they support, as Markdown."""
    settings = RolloutSettings()
    catalogue = load_catalogue(settings.features_dir)
    chosen = [catalogue.get(name)] if name else list(catalogue)
    head, rows, objects = asyncio.run(_read(settings, chosen, by))
    if as_json:
        for one in objects:
            typer.echo(json.dumps(one))
    else:
        typer.echo(markdown(head, rows))


async def _read(
    settings: RolloutSettings, features: list[Feature], by: By | None
) -> tuple[tuple[str, ...], list[list[str]], list[dict[str, Any]]]:
    """The table's head and rows, and the same as objects."""
    from trivium.rollouts.status import parts_of, status_of

    async with opened(settings) as sources:
        if by is None:
            found = [await status_of(feature, sources) for feature in features]
            return STATUS_COLUMNS, [status_row(one) for one in found], [status_object(one) for one in found]
        parts = [(one.name, part) for one in features for part in await parts_of(one, sources, by.value)]
    return PART_COLUMNS, [part_row(*one) for one in parts], [part_object(*one) for one in parts]
