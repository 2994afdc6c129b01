"""`trivium up`: runs the whole platform on one machine."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def up(
    database_url: Annotated[str | None, typer.Option(help="PostgreSQL instead of SQLite.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis instead of the embedded Valkey.")] = None,
    unleash_url: Annotated[str | None, typer.Option(help="Unleash instead of the flags file.")] = None,
) -> None:
    """Runs everything on this machine until Ctrl-C; all state is in one folder."""
    from trivium.cli.platform import Platform, PlatformSettings

    for name, value in (
        ("TRIVIUM_DATABASE_URL", database_url),
        ("TRIVIUM_REDIS_URL", redis_url),
        ("TRIVIUM_UNLEASH_URL", unleash_url),
    ):
        if value:
            os.environ[name] = value
    settings = PlatformSettings()
    if settings.flags_file is None and settings.environment == "development":
        example = settings.features_dir / "flags.json"
        settings = settings.model_copy(update={"flags_file": Path(example)})
    console = Console(highlight=False, soft_wrap=True)
    asyncio.run(Platform(settings, console).run())
