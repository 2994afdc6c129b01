"""From what is configured to providers that can be called."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
from pydantic import SecretStr

from trivium.domain.route import Target
from trivium.errors import ConfigurationError
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.google import GoogleProvider
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import OpenAIProvider
from trivium.llm.provider import Provider
from trivium.llm.settings import ProviderSettings
from trivium.llm.traced import traced

_MAKERS: dict[str, Callable[..., Provider]] = {
    "openai": OpenAIProvider,
    "local": OpenAIProvider,
    "anthropic": AnthropicProvider,
    "google": GoogleProvider,
}


class ProviderMaker:
    """Makes providers; targets that use the same keys share what is known of these."""

    def __init__(
        self,
        settings: ProviderSettings,
        session: aiohttp.ClientSession,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._session = session
        self._environment = os.environ if environment is None else environment
        self._rings: dict[tuple[str, ...], KeyRing] = {}

    def own(self) -> dict[str, Provider]:
        """The vendors at their own addresses, those that have a key; and the self-hosted models."""
        made: dict[str, Provider] = {}
        for vendor in _MAKERS:
            keys = self.keys_of(vendor)
            if keys or vendor == "local":
                made[vendor] = self._make(vendor, self.address_of(vendor), keys)
        return made

    def of(self, target: Target) -> Provider | None:
        """The provider of a target; None if it has no key and is not at an address of yours.

        Raises:
            ConfigurationError: the file or the variable that it names is not there.
        """
        keys = self._keys(target)
        if not keys and target.base_url is None and target.provider != "local":
            return None
        return self._make(target.provider, target.base_url or self.address_of(target.provider), keys)

    def address_of(self, vendor: str) -> str:
        """The base URL of a vendor, as it is set."""
        if vendor == "local":
            return self._settings.resolved_local_base_url
        return str(getattr(self._settings, f"{vendor}_base_url"))

    def keys_of(self, vendor: str) -> list[str]:
        """The keys that are set for a vendor."""
        if vendor == "local":
            return []
        given: SecretStr | None = getattr(self._settings, f"{vendor}_api_key")
        file: Path | None = getattr(self._settings, f"{vendor}_api_key_file")
        return _split(given.get_secret_value()) if given else read_keys(file) if file else []

    def _keys(self, target: Target) -> list[str]:
        if target.api_key_file:
            return read_keys(Path(target.api_key_file))
        if target.api_key_env:
            given = self._environment.get(target.api_key_env)
            if not given:
                raise ConfigurationError(f"api_key_env: the variable {target.api_key_env} is not set")
            return _split(given)
        return self.keys_of(target.provider)

    def _make(self, vendor: str, base_url: str, keys: Sequence[str]) -> Provider:
        ring = self._rings.setdefault((vendor, base_url, *keys), KeyRing(keys))
        return traced(_MAKERS[vendor](vendor, base_url, ring, self._session), base_url)


def read_keys(path: Path) -> list[str]:
    """The keys of a mounted file, one a line; lines that start with # are passed over.

    Raises:
        ConfigurationError: it cannot be read, or holds what cannot stand in a header.
    """
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: a character of a key is not ASCII") from error
    return [line for raw in text.splitlines() if (line := raw.strip()) and not line.startswith("#")]


def _split(given: str) -> list[str]:
    return [key for part in given.split(",") if (key := part.strip())]
