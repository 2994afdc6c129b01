"""API keys: shown once, stored as a hash, cached in memory."""

import hashlib
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from sqlalchemy import insert, select, update

from trivium.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable
from trivium.store.engine import Database
from trivium.store.tables import api_key
from trivium.telemetry import new_id

log = structlog.get_logger()
SCOPES = ("infer", "feedback", "precompute", "admin")
PREFIX = "trv_"
_REFRESH_S = 5.0
_MISSES_A_SECOND = 20


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may use; None is without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    monthly_usd: float | None = None


UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may do."""

    id: str
    name: str
    scopes: frozenset[str]
    expires_at: float | None
    allowance: Allowance = UNLIMITED

    def demand(self, scope: str) -> "Key":
        """Raises Forbidden without the scope; `admin` holds every scope."""
        if scope not in self.scopes and "admin" not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"Key {self.name!r} lacks the scope {scope!r}; it has {has}")
        return self


def sha256_of(secret: str) -> str:
    """Hex SHA-256. A key holds 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRepository:
    """Keys in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        name: str,
        scopes: list[str],
        days: float | None = None,
        allowance: Allowance = UNLIMITED,
    ) -> tuple[Key, str]:
        """Makes a key; the secret is returned here and can never be read again."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise InvalidRequest(f"scopes: {unknown or 'none'}; there are {', '.join(SCOPES)}")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        expires_at = now + days * 86_400 if days else None
        row = {
            "id": new_id(),
            "name": name,
            "sha256": sha256_of(secret),
            "scopes": sorted(set(scopes)),
            "created_at": now,
            "expires_at": expires_at,
            **asdict(allowance),
        }
        async with self._database.transaction() as connection:
            await connection.execute(insert(api_key), row)
        return _key(row), secret

    async def list(self) -> list[dict[str, Any]]:
        """All keys, without what could be used to log in."""
        columns = [c for c in api_key.c if c.name != "sha256"]
        async with self._database.transaction() as connection:
            rows = await connection.execute(select(*columns).order_by(api_key.c.created_at))
            return [dict(row) for row in rows.mappings()]

    async def revoke(self, key_id: str) -> bool:
        """Revokes a key; False if there is none that is valid."""
        statement = update(api_key).where(api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
        async with self._database.transaction() as connection:
            return (await connection.execute(statement.values(revoked_at=time.time()))).rowcount == 1

    async def valid(self, sha256: str | None = None) -> dict[str, Key]:
        """Valid keys by their hash: all of them, or the one asked for."""
        statement = select(api_key).where(api_key.c.revoked_at.is_(None))
        if sha256:
            statement = statement.where(api_key.c.sha256 == sha256)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(statement)).mappings()
            return {row["sha256"]: _key(dict(row)) for row in rows}


class KeyCache:
    """Keys in memory, so that authentication outlives the database.

    The whole set is read anew every five seconds, which is also how long a revoked key works on. A
    key that is not in it is looked up once (a bounded number of times a second), so that a new key
    works at once.
    """

    def __init__(self, repository: KeyRepository) -> None:
        self._repository = repository
        self._keys: dict[str, Key] = {}
        self._misses: list[float] = []
        self.loaded = False

    async def refresh(self) -> None:
        """Reads the keys; keeps the old ones if the database is away."""
        try:
            self._keys = await self._repository.valid()
            self.loaded = True
        except Unavailable:
            log.warning("keys_not_refreshed", cached=len(self._keys))

    async def authenticate(self, secret: str) -> Key:
        """The key of a secret.

        Raises:
            Unauthenticated: it is unknown, revoked or expired.
            Unavailable: it is not cached, and the database is away.
        """
        hashed = sha256_of(secret)
        key = self._keys.get(hashed) or await self._look_up(hashed)
        if key is None:
            raise Unauthenticated("The API key is unknown or revoked")
        if key.expires_at is not None and key.expires_at < time.time():
            raise Unauthenticated("The API key has expired")
        return key

    async def _look_up(self, hashed: str) -> Key | None:
        now = time.monotonic()
        self._misses = [at for at in self._misses if at > now - 1]
        if len(self._misses) >= _MISSES_A_SECOND:
            return None
        self._misses.append(now)
        found = await self._repository.valid(hashed)
        self._keys |= found
        return found.get(hashed)


def _key(row: dict[str, Any]) -> Key:
    allowance = Allowance(row["requests_per_minute"], row["tokens_per_minute"], row["monthly_usd"])
    return Key(row["id"], row["name"], frozenset(row["scopes"]), row["expires_at"], allowance)
