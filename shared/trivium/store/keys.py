"""API keys: shown once, stored as a hash."""

import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert, or_, select, update

from trivium.errors import Conflict, Forbidden, InvalidRequest, NotFound
from trivium.store.engine import Database
from trivium.store.tables import api_key
from trivium.telemetry import new_id

SCOPES = ("infer", "feedback", "precompute", "admin")
PREFIX = "trv_"
OVERLAP_S = 86_400.0
_NAME = re.compile(r"(route/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_MOST_NAME = 128
_COPIED = ("name", "scopes", "features", "requests_per_minute", "tokens_per_minute", "monthly_usd")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may use; None is without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    monthly_usd: float | None = None


UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may do.

    `id` is by whom its traffic is recorded and limited: that of the first key of its line, so that a
    successor has the same answers, budget and idempotency. `own_id` is its row's. `features` None: all.
    """

    id: str
    name: str
    scopes: frozenset[str]
    expires_at: float | None
    allowance: Allowance = UNLIMITED
    features: frozenset[str] | None = None
    own_id: str = ""

    def demand(self, *scopes: str) -> "Key":
        """Raises Forbidden without one of the scopes; none holds another."""
        if not self.scopes.intersection(scopes):
            has = ", ".join(sorted(self.scopes))
            wanted = " or ".join(map(repr, scopes))
            raise Forbidden(f"Key {self.name!r} lacks the scope {wanted}; it has {has}")
        return self

    def may_call(self, name: str) -> bool:
        """Whether it may call a feature, or a route as `route/<name>`."""
        return self.features is None or name in self.features

    def demand_feature(self, name: str) -> None:
        """Raises Forbidden for a feature that it may not call, whether or not there is such a feature."""
        if not self.may_call(name):
            has = ", ".join(sorted(self.features or ()))
            what = name if name.startswith("route/") else f"the feature {name[:_MOST_NAME]!r}"
            raise Forbidden(f"Key {self.name!r} may not call {what}; it is limited to {has}")


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
        features: Sequence[str] | None = None,
    ) -> tuple[Key, str]:
        """Makes a key; the secret is returned here and can never be read again.

        Raises:
            InvalidRequest: a scope is unknown, or what it is limited to can be no feature's name.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise InvalidRequest(f"scopes: {unknown or 'none'}; there are {', '.join(SCOPES)}")
        made = {
            "name": name,
            "scopes": sorted(set(scopes)),
            "features": None if features is None else _checked_features(features),
            **asdict(allowance),
        }
        row, secret = _new_row(made, days * 86_400 if days else None)
        async with self._database.transaction() as connection:
            await connection.execute(insert(api_key), row)
        return _key(row, {}), secret

    async def rotate(
        self, key_id: str, overlap_s: float = OVERLAP_S, days: float | None = None
    ) -> tuple[Key, str, float]:
        """Makes a key's successor, with its scopes, features and limits; the old one ends after the overlap.

        A key that expires has a successor that lives as long as it was to live, or `days`.

        Returns:
            The successor, its secret, and when the old key ends (Unix seconds): at the latest when it would
            have ended anyway.

        Raises:
            NotFound: there is no valid key of the id. Conflict: it has a successor already.
        """
        own, now = api_key.c, time.time()
        async with self._database.transaction() as connection:
            await self._database.serialise(connection, "api_key:rotate")
            wanted = select(api_key).where(own.id == key_id, own.revoked_at.is_(None))
            old = (await connection.execute(wanted)).mappings().first()
            if old is None or (old["expires_at"] is not None and old["expires_at"] <= now):
                raise NotFound(f"There is no valid key {key_id}")
            lives_s = _life_s(dict(old))
            before = select(api_key).where(own.replaces == key_id).order_by(own.created_at)
            for successor in (await connection.execute(before)).mappings():
                if successor["revoked_at"] is None:
                    raise Conflict(f"Key {key_id} has the successor {successor['id']}; rotate or revoke that")
                lives_s = _life_s(dict(successor))  # the old one's end is no longer its own
            lives_s = days * 86_400 if days else lives_s
            row, secret = _new_row({name: old[name] for name in _COPIED}, lives_s, replaces=key_id)
            ends = min(now + overlap_s, old["expires_at"] or float("inf"))
            await connection.execute(insert(api_key), row)
            await connection.execute(update(api_key).where(own.id == key_id).values(expires_at=ends))
            replaced = await _replaced(connection)
        return _key(row, replaced), secret, ends

    async def list(self) -> list[Row]:
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
        """Keys that are not revoked by their hash: all of them, or the one asked for."""
        statement = select(api_key).where(api_key.c.revoked_at.is_(None))
        if sha256:
            statement = statement.where(api_key.c.sha256 == sha256)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(statement)).mappings().all()
            replaced = await _replaced(connection) if any(row["replaces"] for row in rows) else {}
            return {row["sha256"]: _key(dict(row), replaced) for row in rows}

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Notes when keys were last used (Unix seconds by row id); never an earlier time than is noted."""
        own = api_key.c
        async with self._database.transaction() as connection:
            for key_id, at in sorted(used.items()):
                newer = or_(own.last_used_at.is_(None), own.last_used_at < at)
                await connection.execute(
                    update(api_key).where(own.id == key_id, newer).values(last_used_at=at)
                )


async def _replaced(connection: Any) -> dict[str, str]:
    """What each successor replaces, revoked ones included."""
    own = api_key.c
    rows = await connection.execute(select(own.id, own.replaces).where(own.replaces.is_not(None)))
    return {row.id: row.replaces for row in rows}


def _checked_features(features: Iterable[str]) -> list[str]:
    names = sorted(set(features))
    wrong = [name for name in names if len(name) > _MOST_NAME or not _NAME.fullmatch(name)]
    if wrong or not names:
        raise InvalidRequest(
            f"features: {wrong or 'none'}; give names of features, or of routes as route/<name>"
        )
    return names


def _life_s(row: Mapping[str, Any]) -> float | None:
    return None if row["expires_at"] is None else row["expires_at"] - row["created_at"]


def _new_row(copied: Row, lives_s: float | None, replaces: str | None = None) -> tuple[Row, str]:
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    row = {
        **copied,
        "id": new_id(),
        "sha256": sha256_of(secret),
        "created_at": now,
        "expires_at": now + lives_s if lives_s else None,
        "replaces": replaces,
    }
    return row, secret


def _key(row: Row, replaced: Mapping[str, str]) -> Key:
    first = row["id"] if row["replaces"] is None else row["replaces"]
    while first in replaced:
        first = replaced[first]
    return Key(
        id=first,
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        expires_at=row["expires_at"],
        allowance=Allowance(row["requests_per_minute"], row["tokens_per_minute"], row["monthly_usd"]),
        features=None if row["features"] is None else frozenset(row["features"]),
        own_id=row["id"],
    )
