import asyncio
import time

import pytest

from trivium.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from trivium.store.engine import Database
from trivium.store.key_cache import KeyCache
from trivium.store.keys import SCOPES, Allowance, KeyRepository, sha256_of
from trivium.store.retention_records import keys as ended_keys
from trivium.store.sweeps import Sweeper


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


async def test_a_key_is_limited_to_the_features_and_routes_that_it_names(database: Database) -> None:
    repository = KeyRepository(database)
    made, secret = await repository.create("app", ["infer"], features=["b", "a", "b", "route/chat"])
    key = await KeyCache(repository).authenticate(secret)
    assert key == made
    assert key.features == frozenset({"a", "b", "route/chat"})
    key.demand_feature("a")
    key.demand_feature("route/chat")
    for name in ("c", "chat", "route/a", ""):
        with pytest.raises(Forbidden, match=r"may not call .*it is limited to a, b, route/chat"):
            key.demand_feature(name)
    (row,) = await repository.list()
    assert row["features"] == ["a", "b", "route/chat"]
    free, _ = await repository.create("free", ["infer"])
    assert free.features is None
    free.demand_feature("anything")
    for wrong in ([], ["a b"], ["route/"], ["x" * 129], ["models/a"]):
        with pytest.raises(InvalidRequest, match=r"features: .*give names of features"):
            await repository.create("app", ["infer"], features=wrong)


async def test_no_scope_holds_another(database: Database) -> None:
    key, _ = await KeyRepository(database).create("chief", ["admin"])
    key.demand("admin")
    key.demand("infer", "admin")
    for scope in set(SCOPES) - {"admin"}:
        with pytest.raises(Forbidden, match=f"lacks the scope '{scope}'; it has admin"):
            key.demand(scope)


async def test_a_successor_has_all_that_the_old_key_had_and_the_old_one_ends(database: Database) -> None:
    repository = KeyRepository(database)
    cache = KeyCache(repository)
    allowance = Allowance(10, 200, 3.5)
    first, old = await repository.create("app", ["infer", "feedback"], 30, allowance, ["a"])
    await cache.refresh()
    second, new, ends = await repository.rotate(first.own_id, overlap_s=0.2)
    assert second.own_id != first.own_id
    assert second.id == first.id == first.own_id
    assert (second.name, second.scopes, second.features, second.allowance) == (
        "app",
        frozenset({"infer", "feedback"}),
        frozenset({"a"}),
        allowance,
    )
    assert second.expires_at == pytest.approx(time.time() + 30 * 86_400, abs=60)
    # Both work, the new one without a refresh.
    assert {(await cache.authenticate(secret)).own_id for secret in (old, new)} == {
        first.own_id,
        second.own_id,
    }
    await cache.refresh()
    await asyncio.sleep(max(0.0, ends - time.time()) + 0.05)
    with pytest.raises(Unauthenticated, match="expired"):
        await cache.authenticate(old)
    assert (await cache.authenticate(new)).own_id == second.own_id
    third, _, _ = await repository.rotate(second.own_id)
    assert third.id == first.id
    rows = {row["id"]: row for row in await repository.list()}
    assert rows[third.own_id]["replaces"] == second.own_id
    assert rows[second.own_id]["replaces"] == first.own_id


async def test_a_line_stays_one_when_its_middle_is_revoked_and_a_fresh_gateway_reads_it(
    database: Database,
) -> None:
    repository = KeyRepository(database)
    first, _ = await repository.create("app", ["infer"])
    second, _, _ = await repository.rotate(first.own_id)
    third, newest, _ = await repository.rotate(second.own_id)
    await repository.revoke(second.own_id)
    await repository.revoke(first.own_id)
    for cache in (KeyCache(repository), KeyCache(repository)):
        assert (await cache.authenticate(newest)).id == first.id
        await cache.refresh()
    (kept,) = (await repository.valid()).values()
    assert (kept.id, kept.own_id) == (first.id, third.own_id)


async def test_a_key_has_one_successor_at_a_time(database: Database) -> None:
    repository = KeyRepository(database)
    key, _ = await repository.create("app", ["infer"])
    both = await asyncio.gather(
        repository.rotate(key.own_id), repository.rotate(key.own_id), return_exceptions=True
    )
    (made,) = [one for one in both if isinstance(one, tuple)]
    assert any(isinstance(one, Conflict) and made[0].own_id in one.detail for one in both)
    # One whose secret was lost is revoked; the next is as the first was meant to be, without an end.
    await repository.revoke(made[0].own_id)
    again, _, ends = await repository.rotate(key.own_id, overlap_s=1_000_000)
    assert again.expires_at is None
    assert ends < time.time() + 86_401
    for wrong in ("nobody", made[0].own_id):
        with pytest.raises(NotFound, match="no valid key"):
            await repository.rotate(wrong)
    _, _, ends = await repository.rotate(again.own_id, overlap_s=0)
    with pytest.raises(NotFound, match="no valid key"):
        await repository.rotate(again.own_id)


async def test_last_use_is_written_once_a_minute_and_never_goes_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = KeyRepository(database)
    key, secret = await repository.create("app", ["infer"])
    await repository.create("idle", ["infer"])
    written: list[dict[str, float]] = []
    note_use = repository.note_use

    async def counted(used: dict[str, float]) -> None:
        written.append(used)
        await note_use(used)

    monkeypatch.setattr(repository, "note_use", counted)
    cache = KeyCache(repository)
    for _ in range(100):
        await cache.authenticate(secret)
        await cache.note_use()  # as the background task does, every five seconds
    assert not written
    monkeypatch.setattr("trivium.store.key_cache.NOTE_S", 0.0)
    await cache.note_use()
    await cache.note_use()
    assert len(written) == 1
    used, idle = await repository.list()
    assert used["last_used_at"] == pytest.approx(time.time(), abs=60)
    assert idle["last_used_at"] is None
    await note_use({key.own_id: 1.0})  # another gateway, whose news is older
    assert (await repository.list())[0]["last_used_at"] == used["last_used_at"]


async def test_last_use_waits_for_a_database_that_is_away(database: Database) -> None:
    repository = KeyRepository(database)
    _, secret = await repository.create("app", ["infer"])
    cache = KeyCache(repository)
    await cache.authenticate(secret)
    own, away = repository._database, Database("postgresql+asyncpg://nobody@127.0.0.1:9/none")
    repository._database = away
    with pytest.raises(Unavailable):
        await cache.note_use(now=True)
    await away.close()
    repository._database = own
    await cache.note_use(now=True)
    assert (await repository.list())[0]["last_used_at"]


async def test_a_wrong_key_is_looked_up_once_and_what_is_known_of_them_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.key_cache._MOST_UNKNOWN", 3)
    repository = KeyRepository(database)
    cache = KeyCache(repository)
    for number in (1, 1, 1, 2, 3, 4, 5, 5):
        with pytest.raises(Unauthenticated):
            await cache.authenticate(f"trv_{number}")
    assert len(cache._misses) == 5
    assert list(cache._unknown) == [sha256_of(f"trv_{number}") for number in (3, 4, 5)]
    for number in range(100):
        with pytest.raises(Unauthenticated):
            await cache.authenticate(f"trv_{number}-more")
    assert len(cache._misses) <= 20


async def test_the_first_key_of_a_line_stays_as_long_as_the_last(database: Database) -> None:
    repository = KeyRepository(database)
    alone, _ = await repository.create("alone", ["infer"], days=1e-9)
    first, _ = await repository.create("app", ["infer"])
    second, _, _ = await repository.rotate(first.own_id, overlap_s=0)
    gone = await Sweeper(database).all(ended_keys(time.time() + 1))
    assert gone.total() == 1
    assert [row["id"] for row in await repository.list()] == [first.own_id, second.own_id]
    assert alone.own_id not in {row["id"] for row in await repository.list()}
