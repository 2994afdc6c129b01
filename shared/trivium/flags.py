"""Where feature flags come from: a server's address, or a file in the format that Unleash's clients get."""

import json
from pathlib import Path

from pydantic import Field, SecretStr

from trivium.errors import ConfigurationError
from trivium.settings import Settings

FLAGS_FILE = "flags.json"
"""In the state folder: the flags of a platform on one machine, which a rollout changes."""


class FlagSettings(Settings):
    """Where flags come from."""

    unleash_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]",
        description="Unleash's API, https://…/api; without it the flags file decides.",
    )
    unleash_token: SecretStr | None = Field(None, description="A backend token of Unleash.")
    flags_file: Path | None = Field(
        None,
        description="Flags in the format of Unleash's /api/client/features: without a server what "
        "decides, with one what serves until its first answer.",
    )
    flags_refresh_s: int = Field(
        3, ge=1, description="Seconds until a change of a flag reaches every process."
    )

    @property
    def resolved_flags_file(self) -> Path | None:
        """The file; by default the one of the platform that runs on this machine, if there is one."""
        own = self.state_dir / FLAGS_FILE
        return self.flags_file or (own if own.is_file() else None)


def read_flags(path: Path, setting: str = "TRIVIUM_FLAGS_FILE") -> str:
    """The text of a flags file, checked.

    Raises:
        ConfigurationError: it is not there, not JSON, or has no list of features.
    """
    try:
        return checked_flags(path.read_text(encoding="utf-8"), f"{setting}: {path}")
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{setting}: {path}: not UTF-8: {error.reason}") from error


def checked_flags(text: str, source: str) -> str:
    """The text, if it is a state of flags; else raises ConfigurationError, naming its source."""
    try:
        flags = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{source}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(flags, dict) or not isinstance(flags.get("features"), list):
        raise ConfigurationError(f"{source}: there is no list 'features'")
    return text
