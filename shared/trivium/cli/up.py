"""`trivium up`: runs the whole platform on one machine."""

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trivium.errors import ConfigurationError
from trivium.flags import FLAGS_FILE, read_flags


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
        own = _flags_of_ones_own(settings.features_dir / FLAGS_FILE, settings.state_dir / FLAGS_FILE)
        settings = settings.model_copy(update={"flags_file": own})
    console = Console(highlight=False, soft_wrap=True)
    asyncio.run(Platform(settings, console).run())


def _flags_of_ones_own(example: Path, own: Path) -> Path:
    """The flags in the state folder, with those of the example that are new.

    So a rollout changes no file of the checkout.
    """
    if not example.is_file():
        return own if own.is_file() else example
    given = json.loads(read_flags(example))
    state = json.loads(read_flags(own)) if own.is_file() else {**given, "features": []}
    known = {flag.get("name") for flag in state["features"]}
    new = [flag for flag in given["features"] if flag.get("name") not in known]
    if new or not own.is_file():
        state["features"] += new
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"{own.parent} cannot be written ({error.strerror}); set TRIVIUM_STATE_DIR to another folder"
            ) from error
    return own
