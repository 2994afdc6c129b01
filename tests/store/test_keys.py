import asyncio

import pytest

from trivium.errors import InvalidRequest, Unauthenticated, Unavailable
from trivium.store.engine import Database
from trivium.store.keys import KeyCache, KeyRepository


async def test_a_new_key_works_at_once_and_only_its_hash_is_stored(database: Database) -> None:
    repository = KeyRepository(database)
    cache = KeyCache(repository)
    await cache.refresh()
    key, secret = await repository.create("app", ["infer"])
    assert (await cache.authenticate(secret)).id == key.id
    rows = await repository.list()
    assert secret not in str(rows)
    assert "sha256" not in rows[0]


async def test_a_revoked_key_is_refused_after_the_next_refresh(database: Database) -> None:
    repository = KeyRepository(database)
    cache = KeyCache(repository)
    key, secret = await repository.create("app", ["infer"])
    await cache.refresh()
    assert await repository.revoke(key.id)
    assert not await repository.revoke(key.id)
    await cache.refresh()
    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        await cache.authenticate(secret)


async def test_an_expired_key_is_refused(database: Database) -> None:
    repository = KeyRepository(database)
    _, secret = await repository.create("app", ["infer"], days=1e-7)
    await asyncio.sleep(0.05)
    with pytest.raises(Unauthenticated, match="expired"):
        await KeyCache(repository).authenticate(secret)


async def test_an_unknown_scope_names_those_there_are(database: Database) -> None:
    with pytest.raises(InvalidRequest, match="infer, feedback, precompute, admin"):
        await KeyRepository(database).create("app", ["write"])


async def test_cached_keys_outlive_the_database_and_unknown_ones_get_503(tmp_path: object) -> None:
    from pathlib import Path

    from trivium.store.engine import migrate

    path = Path(str(tmp_path)) / "keys.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    await migrate(database)
    repository = KeyRepository(database)
    cache = KeyCache(repository)
    _, secret = await repository.create("app", ["infer"])
    await cache.refresh()
    await database.close()
    for left in path.parent.glob("keys.db*"):
        left.unlink()
    path.mkdir()  # the database can no longer be opened
    await cache.refresh()
    assert (await cache.authenticate(secret)).name == "app"
    with pytest.raises(Unavailable):
        await cache.authenticate("trv_unknown")
