"""Sets a feature's flag to a stage: in Unleash by its admin API, without a server in the flags file."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from trivium.errors import ConfigurationError
from trivium.flag_plan import FlagAdminSettings, Plan, percent_of
from trivium.flags import read_flags
from trivium.unleash_admin import UnleashAdmin

__all__ = [
    "FileAdmin",
    "FlagAdmin",
    "FlagAdminSettings",
    "Plan",
    "UnleashAdmin",
    "make_flag_admin",
    "percent_of",
]


class FlagAdmin(Protocol):
    """Sets flags, and tells how they are."""

    async def percent(self, flag: str) -> int | None:
        """The percentage of the subjects for whom a flag is on; None if it is not known.

        Raises:
            Unavailable: the server is away. ConfigurationError: it takes no token of ours.
        """
        ...

    async def apply(self, plan: Plan) -> None:
        """Makes a flag what the plan says; to repeat it changes nothing.

        Raises:
            Unavailable: the server is away. ConfigurationError: it takes no token of ours, or the file
            cannot be written. Forbidden: the token may not set flags. Conflict: the flag has a strategy
            that somebody else made, and is to be on for more than the staging subjects.
        """
        ...


def make_flag_admin(settings: FlagAdminSettings, session: aiohttp.ClientSession) -> FlagAdmin:
    """Unleash's, if there is a server, else the file's."""
    if settings.unleash_url:
        return UnleashAdmin(settings, session)
    return FileAdmin(settings.flags_file)


@dataclass(frozen=True, slots=True)
class FileAdmin:
    """The flags of a file; the other flags in it stay as they are."""

    path: Path | None

    async def percent(self, flag: str) -> int | None:
        """As the protocol has it; a flag that is not in the file is off, and without a file none is known."""
        if self.path is None:
            return None
        features = _read(self.path)["features"]
        return next((percent_of(one) for one in features if one.get("name") == flag), 0)

    async def apply(self, plan: Plan) -> None:
        """As the protocol has it; one at a time, written beside and moved into place."""
        if self.path is None:
            raise ConfigurationError(
                "there is neither TRIVIUM_UNLEASH_URL nor TRIVIUM_FLAGS_FILE, so there is no flag to set"
            )
        path = self.path.resolve()  # a link stays one
        try:
            with _alone_in(path.parent):
                _write(path, _changed(_read(self.path), plan))
        except OSError as error:
            raise ConfigurationError(f"TRIVIUM_FLAGS_FILE: {path}: {error.strerror}") from error


def _changed(state: dict[str, Any], plan: Plan) -> dict[str, Any]:
    made = {"name": plan.flag, "enabled": plan.enabled, "strategies": list(plan.parts().values())}
    features = state["features"]
    known = [place for place, one in enumerate(features) if one.get("name") == plan.flag]
    for place in known:
        features[place] = {**features[place], **made}
    if not known:
        features.append(made)
    return state


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(read_flags(path))
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two who change a file at once (the guard, a person) must not undo each other's change."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
