"""Where requests go, and their bytes."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, urlsplit

from trivium.errors import ConfigurationError
from trivium.http import DEADLINE_HEADER

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A server; `context` is set for TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as bytes; they may hold a key, so they are in no repr."""

    url: str
    address: Address
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint under load.

    A 200 whose body has `unless` in it is no good answer (a gateway's fallback) and is counted
    `degraded`. `deadline_ms` counts from the intended send.
    """

    url: str
    address: Address
    requests: tuple[bytes, ...] = field(repr=False)
    deadline_ms: float
    ready: Call | None = None
    metrics: Call | None = None
    unless: bytes | None = None
    header_names: tuple[str, ...] = ()

    @classmethod
    def post(
        cls,
        url: str,
        bodies: Sequence[bytes],
        *,
        deadline_ms: float = 100.0,
        headers: Mapping[str, str] | None = None,
        ready_url: str | None = None,
        metrics_url: str | None = None,
        unless: bytes | None = None,
    ) -> Self:
        """A target that is sent JSON bodies in turn, each with the deadline in a header.

        `ready_url` and `metrics_url` are by default beside the API: `/v2/health/ready` for a path
        with /v2/, else `/health/ready`; and `/metrics`.

        Raises:
            ConfigurationError: a URL or header is not one, or there is no body.
        """
        if not bodies:
            raise ConfigurationError("no body to send; one at least is needed")
        own = dict(headers or {})
        usual = {"Content-Type": "application/json", DEADLINE_HEADER: f"{deadline_ms:.0f}"}
        replaced = {name.lower() for name in own}
        given = {name: value for name, value in usual.items() if name.lower() not in replaced} | own
        parts = _split(url)
        address = _address(parts)
        root, v2 = _root(parts)
        ready_url = ready_url or f"{root}{'/v2' if v2 else ''}/health/ready"
        return cls(
            url=shown(url),
            address=address,
            requests=tuple(_raw("POST", parts, given, body) for body in bodies),
            deadline_ms=deadline_ms,
            ready=_get(ready_url, own, address),
            metrics=_get(metrics_url or f"{root}/metrics", own, address),
            unless=unless,
            header_names=tuple(own),
        )


def shown(url: str) -> str:
    """A URL without its query, which may hold a secret."""
    return _split(url)._replace(query="", fragment="").geturl()


def _get(url: str, headers: Mapping[str, str], known: Address) -> Call:
    parts = _split(url)
    same = (parts.hostname, _port(parts)) == (known.host, known.port)
    return Call(shown(url), known if same else _address(parts), _raw("GET", parts, headers, None))


def _root(parts: SplitResult) -> tuple[str, bool]:
    """What stands before /v1/ or /v2/, and whether it is /v2/."""
    for version in ("/v2/", "/v1/"):
        before, found, _ = parts.path.partition(version)
        if found:
            return f"{parts.scheme}://{parts.netloc}{before}", version == "/v2/"
    return f"{parts.scheme}://{parts.netloc}", False


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        right = parts.scheme in PORTS and parts.hostname and _port(parts)
    except ValueError:
        right = False
    if not right or not url.isascii() or any(letter.isspace() for letter in url):
        raise ConfigurationError(f"{url!r} is no URL; right would be http://host:port/path or https://…")
    if parts.username is not None:
        raise ConfigurationError("a URL with user:password@ would show them; use --header 'Authorization: …'")
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _address(parts: SplitResult) -> Address:
    context = ssl.create_default_context() if parts.scheme == "https" else None
    return Address(parts.hostname or "", _port(parts), context)


def _raw(method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | None) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}"]
    for name, value in headers.items():
        if not name.strip() or any(letter in name + value for letter in "\r\n\0"):
            raise ConfigurationError(f"header {name!r}: right would be 'Name: value' on one line")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (body or b"")
