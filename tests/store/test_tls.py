"""Connections to the stores are encrypted and checked as their URLs say."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from arq.connections import create_pool
from redis.exceptions import RedisError
from sqlalchemy import select

from batch_worker.queue_settings import arq_settings
from support.postgres import Postgres
from support.tls import Authority, tls_front
from support.valkey import Valkey
from trivium.errors import ConfigurationError, Unavailable
from trivium.store.engine import Database, migrate
from trivium.store.redis_guard import RedisAway, RedisGuard
from trivium.store.tables import api_key
from trivium.store.tls import postgresql_tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def another(folder: Path) -> Authority:
    return Authority(folder, "another")


@pytest.fixture
def database(postgres: Postgres) -> tuple[str, str]:
    """The name of a new database, and the socket of its server."""
    url = postgres.new_database()
    name, _, where = url.partition("?")
    return name.rpartition("/")[2], f"{where.partition('host=')[2].partition('&')[0]}/.s.PGSQL.5432"


@pytest.fixture
def encrypted(database: tuple[str, str], ours: Authority) -> Iterator[str]:
    """A database's URL that goes through TLS, with a certificate for localhost."""
    name, socket = database
    with tls_front(socket, ours.server("localhost"), postgresql=True) as front:
        yield f"postgresql+asyncpg://postgres@localhost:{front.port}/{name}"


async def _works(url: str) -> None:
    database = Database(url)
    try:
        await migrate(database)
        async with database.transaction() as connection:
            assert (await connection.execute(select(api_key))).all() == []
        async with database.reading() as connection:
            await connection.execute(select(api_key))
    finally:
        await database.close()


async def test_the_right_authority_and_name_connect_and_migrate(encrypted: str, ours: Authority) -> None:
    await _works(f"{encrypted}?sslmode=verify-full&sslrootcert={quote(str(ours.file))}")
    await _works(f"{encrypted}?sslmode=require")


async def test_the_authority_may_be_named_by_the_variable_of_libpq(
    encrypted: str, ours: Authority, another: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(ours.file))
    await _works(f"{encrypted}?sslmode=verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(another.file))
    with pytest.raises(Unavailable):
        await _works(f"{encrypted}?sslmode=verify-full")


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
async def test_another_authority_is_not_believed(encrypted: str, another: Authority, mode: str) -> None:
    with pytest.raises(Unavailable):
        await _works(f"{encrypted}?sslmode={mode}&sslrootcert={another.file}")


async def test_the_systems_authorities_do_not_know_ours(encrypted: str) -> None:
    with pytest.raises(Unavailable):
        await _works(f"{encrypted}?sslmode=verify-full")


async def test_another_name_is_refused_only_where_names_are_checked(encrypted: str, ours: Authority) -> None:
    by_number = encrypted.replace("localhost", "127.0.0.1")
    with pytest.raises(Unavailable):
        await _works(f"{by_number}?sslmode=verify-full&sslrootcert={ours.file}")
    await _works(f"{by_number}?sslmode=verify-ca&sslrootcert={ours.file}")


async def test_a_server_without_tls_is_refused_where_it_is_demanded(database: tuple[str, str]) -> None:
    name, socket = database
    with tls_front(socket, None, postgresql=True) as front:
        url = f"postgresql+asyncpg://postgres@localhost:{front.port}/{name}"
        for mode in ("require", "verify-full"):
            with pytest.raises(Unavailable):
                await _works(f"{url}?sslmode={mode}")
        await _works(f"{url}?sslmode=prefer")


async def test_a_server_that_demands_it_is_not_spoken_to_plainly(encrypted: str) -> None:
    with pytest.raises(Unavailable):
        await _works(f"{encrypted}?sslmode=disable")


async def test_a_clients_certificate_is_shown(
    database: tuple[str, str], ours: Authority, another: Authority
) -> None:
    name, socket = database
    cert, key = another.client()
    with tls_front(socket, ours.server("localhost", trusts=another), postgresql=True) as front:
        url = f"postgresql+asyncpg://postgres@localhost:{front.port}/{name}?sslmode=verify-full"
        url += f"&sslrootcert={ours.file}"
        await _works(f"{url}&sslcert={cert}&sslkey={key}")
        with pytest.raises(Unavailable):
            await _works(url)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("sslmode=verify_full", "sslmode=verify_full is none of disable, allow, prefer"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert=/nowhere.pem: No such file"),
    ],
)
def test_what_is_wrong_is_named_without_the_password(parameters: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Database(f"postgresql+asyncpg://me:hidden@localhost/a?{parameters}")  # pragma: allowlist secret
    assert told in raised.value.detail
    assert "hidden" not in raised.value.detail


def test_other_parameters_stay() -> None:
    database = Database("postgresql+asyncpg://a@/b?host=/tmp&sslmode=disable")
    bare, tls = postgresql_tls(database.url)
    assert (dict(bare.query), tls) == ({"host": "/tmp"}, {"ssl": False})


@pytest.fixture
async def valkey(tmp_path: Path, ours: Authority) -> AsyncIterator[str]:
    """A server behind TLS, with a certificate for localhost: what of its URL comes behind the scheme."""
    with Valkey(tmp_path) as server, tls_front(server.port, ours.server("localhost")) as front:
        yield f"localhost:{front.port}/0"


async def _guard_answers(url: str) -> None:
    guard = RedisGuard(url, timeout_s=2)
    try:
        assert await guard.call(lambda redis: redis.ping())
    finally:
        await guard.close()


async def _queue_answers(url: str) -> None:
    settings = arq_settings(url)
    settings.conn_retries = 0
    pool = await create_pool(settings)
    try:
        assert await pool.ping()
    finally:
        await pool.aclose()


@pytest.mark.parametrize("answers", [_guard_answers, _queue_answers], ids=["limits", "queue"])
async def test_valkey_is_reached_by_tls_and_checked(
    valkey: str, ours: Authority, another: Authority, answers: object
) -> None:
    assert callable(answers)
    await answers(f"rediss://{valkey}?ssl_ca_certs={ours.file}")
    by_number = valkey.replace("localhost", "127.0.0.1")
    await answers(f"rediss://{by_number}?ssl_ca_certs={ours.file}&ssl_check_hostname=false")
    for wrong in (
        f"rediss://{valkey}",
        f"rediss://{valkey}?ssl_ca_certs={another.file}",
        f"rediss://{by_number}?ssl_ca_certs={ours.file}",
        f"redis://{valkey}",
    ):
        with pytest.raises((RedisAway, RedisError, OSError, TimeoutError)):
            await answers(wrong)


def test_the_queue_reads_all_of_a_url() -> None:
    settings = arq_settings("rediss://me:p%40ss@host:7000/3?ssl_ca_certs=/a.pem")
    assert (settings.host, settings.port, settings.database, settings.username) == ("host", 7000, 3, "me")
    assert (settings.password, settings.ssl, settings.ssl_ca_certs) == ("p@ss", True, "/a.pem")
    assert settings.ssl_check_hostname
    assert arq_settings("unix:///run/v.sock").unix_socket_path == "/run/v.sock"
    with pytest.raises(ConfigurationError, match="TRIVIUM_REDIS_URL"):
        arq_settings("http://host")
