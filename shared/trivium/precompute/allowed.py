"""Which URLs a run may read: those below one that the operator has named."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from trivium.errors import ConfigurationError

LOCAL = ("file", "local")
_PORTS = {"http": 80, "https": 443}
_ODD = re.compile(r"[\x00-\x20\x7f\\]")


class _Place(NamedTuple):
    scheme: str
    user: str
    host: str
    port: int | None
    path: list[str]


def below(url: str, allowed: Sequence[str]) -> str:
    """The one of the allowed beginnings that a URL lies below, by whole parts of its path.

    Scheme, user, host, port and path are compared as parsed. What different programs may read differently
    is refused before.

    Raises:
        ValueError: it lies below none; says why.
    """
    asked = _place(url)
    for prefix in allowed:
        root = _place(prefix)
        if asked[:4] == root[:4] and asked.path[: len(root.path)] == root.path:
            return prefix
    raise ValueError(f"must lie below one of TRIVIUM_SOURCE_URLS, which has {', '.join(allowed) or 'none'}")


def check_inside(path: str, allowed: str) -> None:
    """Raises ConfigurationError if a file of this machine is not below an allowed one, links followed."""
    root = os.path.realpath(urlsplit(allowed).path if "://" in allowed else allowed)
    found = os.path.realpath(path)
    if os.path.commonpath([root, found]) != root:
        raise ConfigurationError(f"{path} leads to {found}, which is not below {allowed}")


def _place(url: str) -> _Place:
    if odd := _ODD.search(url):
        raise ValueError(f"has the character {odd[0]!r}, which no URL has")
    if "::" in url:
        raise ValueError("is a chain of URLs (::); name one")
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    if parts.scheme not in _PORTS and (parts.query or parts.fragment or "?" in url or "#" in url):
        raise ValueError("has a query, which only http and https have")
    if not parts.scheme:
        if not url.startswith("/") or parts.netloc:
            raise ValueError("is neither a URL with a scheme nor the whole path of a file")
        return _Place("file", "", "", None, _path(parts.path))
    if not url.lower().startswith(f"{parts.scheme}://") or bool(parts.netloc) is (parts.scheme in LOCAL):
        raise ValueError("is not of the form scheme://host/path, or file:///path")
    if parts.scheme in LOCAL:
        return _Place("file", "", "", None, _path(parts.path))
    # Names of hosts are the same in capitals, names of buckets are not.
    host = (parts.hostname or "") if parts.scheme in _PORTS else parts.netloc.rpartition("@")[2]
    return _Place(parts.scheme, parts.netloc.rpartition("@")[0], host, port, _path(parts.path))


def _path(path: str) -> list[str]:
    inner = path.removeprefix("/").removesuffix("/")
    names = inner.split("/") if inner else []
    for name in names:
        plain = unquote(unquote(name))
        if plain in (".", "..") or "/" in plain or "\\" in plain or not name or "\0" in plain:
            raise ValueError(f"has {name!r} in its path; write the path itself")
    return names
