"""Addresses of Redis or Valkey: what they may say, and that a host's name is checked."""

from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

from trivium.errors import ConfigurationError


def redis_url(url: str) -> str:
    """The URL, with names of hosts checked where it says `rediss://` and nothing else.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        parse_url(url)
    except ValueError as error:
        raise ConfigurationError(f"TRIVIUM_REDIS_URL: {error}") from None
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_check_hostname" in parts.query:
        return url
    return urlunsplit(parts._replace(query=f"{parts.query}&ssl_check_hostname=true".lstrip("&")))
