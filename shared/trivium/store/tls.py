"""TLS to PostgreSQL, by the parameters that its own clients have in URLs."""

import os
import ssl
from typing import Any

from sqlalchemy.engine import URL

from trivium.errors import ConfigurationError

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OF_LIBPQ = ("sslmode", "sslrootcert", "sslcert", "sslkey")


def postgresql_tls(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL without libpq's parameters for TLS, and what the driver is to be given for them.

    `sslmode`, `sslrootcert` (a file, or `system`; or the variable PGSSLROOTCERT), `sslcert` and `sslkey` mean
    what they mean to `psql`; but without an authority, `verify-ca` and `verify-full` trust the system's.

    Raises:
        ConfigurationError: a value that is none, or a file that cannot be read; without the URL's password.
    """
    given = {name: str(url.query[name]) for name in _OF_LIBPQ if name in url.query}
    if not given:
        return url, {}
    if root := os.environ.get("PGSSLROOTCERT"):
        given.setdefault("sslrootcert", root)
    mode = given.get("sslmode", "prefer")
    if mode not in _MODES:
        raise ConfigurationError(f"TRIVIUM_DATABASE_URL: sslmode={mode} is none of {', '.join(_MODES)}")
    rest = url.difference_update_query(_OF_LIBPQ)
    if mode == "disable":
        return rest, {"ssl": False}
    # As libpq does: an authority that is named is not named for nothing.
    if mode == "require" and "sslrootcert" in given:
        mode = "verify-ca"
    if not mode.startswith("verify") and "sslcert" not in given:
        return rest, {"ssl": mode}
    return rest, {"ssl": _context(mode, given)}


def _context(mode: str, given: dict[str, str]) -> ssl.SSLContext:
    root = given.get("sslrootcert", "system")
    try:
        context = ssl.create_default_context(cafile=None if root == "system" else root)
        context.check_hostname = mode == "verify-full"
        if not mode.startswith("verify"):
            context.verify_mode = ssl.CERT_NONE
        if "sslcert" in given:
            context.load_cert_chain(given["sslcert"], given.get("sslkey"))
    except OSError as error:
        files = ", ".join(f"{name}={value}" for name, value in given.items() if name != "sslmode")
        raise ConfigurationError(f"TRIVIUM_DATABASE_URL: {files}: {error.strerror or error}") from None
    return context
