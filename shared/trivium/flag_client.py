"""Feature flags: Unleash's client, with or without a server.

Without a server the same client evaluates a file in the same format, read anew at every refresh.
With one, the last state that it sent is kept on disk, and serves before the first answer; where
there is none yet, the file does. A flag that nobody knows is off: the subject gets the non-AI version.
"""

import asyncio
import logging
import os
import threading
from pathlib import Path
from typing import Any

import structlog
from UnleashClient.cache import BaseCache
from UnleashClient.clients.unleash_client import UnleashClient
from UnleashClient.constants import FEATURES_URL
from UnleashClient.utils import InstanceAllowType

from trivium.errors import ConfigurationError
from trivium.flags import FlagSettings, checked_flags, read_flags

log = structlog.get_logger()

_NO_FLAGS = '{"version": 1, "features": []}'


class UnleashFlags:
    """Evaluates flags in this process; built in a lifespan, never before a fork."""

    def __init__(self, settings: FlagSettings) -> None:
        self._online = settings.unleash_url is not None
        self._connecting: asyncio.Task[None] | None = None
        logging.getLogger("UnleashClient").addFilter(_without_traceback)
        self._client = UnleashClient(
            url=settings.unleash_url or "http://127.0.0.1/api",
            app_name="trivium",
            environment=settings.environment,
            refresh_interval=settings.flags_refresh_s,
            metrics_interval=60,
            disable_metrics=not self._online,
            disable_registration=not self._online,
            request_timeout=3,
            request_retries=0,
            custom_headers=_authorization(settings),
            cache=_FlagCache(settings, self._online),
            multiple_instance_mode=InstanceAllowType.SILENTLY_ALLOW,
        )

    async def start(self) -> None:
        """Begins to refresh; the first contact happens in a thread, a dead server delays nothing."""
        connecting = asyncio.to_thread(self._client.initialize_client, fetch_toggles=self._online)
        if self._online:
            self._connecting = asyncio.create_task(connecting)
        else:
            await connecting

    async def stop(self) -> None:
        """Ends the refreshing; a server that does not answer delays it by a few seconds."""
        if self._connecting:
            await asyncio.wait([self._connecting])  # the client must not be destroyed while it begins
        await asyncio.to_thread(self._client.destroy)

    def is_enabled(self, flag: str, subject_id: str, properties: dict[str, str]) -> bool:
        """Whether the flag is on for a subject; False for a flag that is not known."""
        context = {"userId": subject_id, "properties": properties}
        return bool(self._client.is_enabled(flag, context))


class _FlagCache(BaseCache):
    """The client's cache: memory, in front of the last known state and the flags file."""

    def __init__(self, settings: FlagSettings, online: bool) -> None:
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._known = settings.state_dir / "flags-last-known.json" if online else None
        self._file = settings.flags_file
        self._online = online
        state = self._stored()
        self.bootstrapped = state is not None
        if state:
            self._values[FEATURES_URL] = state

    def set(self, key: str, value: Any) -> None:
        """Keeps a value; a new state only if it is one, and also on disk."""
        with self._lock:
            if key == FEATURES_URL and self._known and self._values.get(key) != value:
                try:
                    self._keep(self._known, checked_flags(value, "TRIVIUM_UNLEASH_URL"))
                except ConfigurationError as error:
                    log.error("flags_not_understood", detail=error.detail)
                    return
                except OSError as error:
                    log.error("flags_not_kept", path=str(self._known), detail=error.strerror)
            self._values[key] = value

    def mset(self, data: dict[str, Any]) -> None:
        """Keeps several values."""
        for key, value in data.items():
            self.set(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """A value. Without a server, the state is the file's as it is now."""
        if key == FEATURES_URL and not self._online:
            try:
                self._values[key] = self._stored() or self._values.get(key)
            except ConfigurationError as error:
                log.error("flags_file_not_reloaded", detail=error.detail)
        return self._values.get(key, default)

    def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return key in self._values

    def destroy(self) -> None:
        """Forgets what is in memory; the state on disk stays."""
        self._values.clear()

    def _keep(self, path: Path, state: str) -> None:
        """Writes beside and moves into place; several processes may do so at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(state, encoding="utf-8")
        partial.replace(path)

    def _stored(self) -> str | None:
        if self._known and self._known.is_file():
            try:
                return read_flags(self._known, "TRIVIUM_STATE_DIR")
            except ConfigurationError as error:
                log.error("last_known_flags_not_read", detail=error.detail)
        if self._file:
            return read_flags(self._file)
        return None if self._online else _NO_FLAGS


def _authorization(settings: FlagSettings) -> dict[str, str]:
    if settings.unleash_token is None:
        return {}
    token = settings.unleash_token.get_secret_value().strip()
    if not (token.isascii() and token.isprintable()):
        raise ConfigurationError("TRIVIUM_UNLEASH_TOKEN: a character in it cannot be in a header")
    return {"Authorization": token}


def _without_traceback(record: logging.LogRecord) -> bool:
    """A traceback's local variables hold the token, and the message says what happened."""
    record.exc_info = None
    return True
