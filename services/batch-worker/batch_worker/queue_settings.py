"""The queue's address as ARQ wants it."""

from typing import Any

from arq.connections import RedisSettings
from redis.asyncio.connection import SSLConnection, parse_url

from trivium.store.redis_url import redis_url


def arq_settings(url: str) -> RedisSettings:
    """What ARQ needs; its own reader of URLs drops the parameters for TLS, and quoted passwords."""
    found: dict[str, Any] = dict(parse_url(redis_url(url)))
    encrypted = found.get("connection_class") is SSLConnection
    return RedisSettings(
        host=found.get("host", "localhost"),
        port=found.get("port", 6379),
        unix_socket_path=found.get("path"),
        database=found.get("db", 0),
        username=found.get("username"),
        password=found.get("password"),
        ssl=encrypted,
        ssl_keyfile=found.get("ssl_keyfile"),
        ssl_certfile=found.get("ssl_certfile"),
        ssl_cert_reqs=found.get("ssl_cert_reqs", "required"),
        ssl_ca_certs=found.get("ssl_ca_certs"),
        ssl_check_hostname=found.get("ssl_check_hostname", encrypted),
    )
