import asyncio
import random

from sqlalchemy import insert, select

from support.ledger import Ledger, dead_of
from trivium.domain.precompute import Item
from trivium.store.archive import ArchiveRepository, Record, input_hash
from trivium.store.engine import Database
from trivium.store.tables import archive_embedding, archive_item

ODD_KEYS = [
    "a",
    "A",
    "b",
    "B",
    "ä",
    "Z",
    "z",
    "_x",
    "-x",
    " x",
    "x ",
    "10",
    "9",
    "é",
    "e",
    "日本",
    "🙂",
    "a-b",
    "ab",
    "a b",
]


async def _embed(database: Database, key: str, of: str, model: str = "m", archive: str = "one") -> None:
    row = {"archive": archive, "entity_key": key, "model": model, "input_hash": of, "vector": key.encode()}
    async with database.transaction() as connection:
        await connection.execute(insert(archive_embedding), row)


def test_the_hash_of_a_record_ignores_the_order_of_its_fields_and_nothing_else() -> None:
    assert input_hash({"a": 1, "b": "ü"}) == input_hash({"b": "ü", "a": 1})
    assert len({input_hash(r) for r in ({}, {"a": 1}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1})}) == 6
    assert len(input_hash({})) == 32


async def test_records_are_read_back_and_newer_ones_replace_older(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {"1": {"t": "old"}, "2": {"t": "two"}})
    await archive.put("one", {"1": {"t": "new"}, "3": {"t": "three"}})
    await archive.put("other", {"1": {"t": "other"}})
    assert await archive.count("one") == 3
    assert await archive.keys("one") == ["1", "2", "3"]
    assert await archive.items("one", ["2", "1", "nobody"]) == [
        Item("1", {"t": "new"}, input_hash({"t": "new"})),
        Item("2", {"t": "two"}, input_hash({"t": "two"})),
    ]


async def test_replace_leaves_only_the_new_records_and_other_archives(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {"1": {}, "2": {}})
    await archive.put("other", {"1": {}})
    await archive.replace("one", {"3": {}})
    assert await archive.keys("one") == ["3"]
    assert await archive.keys("other") == ["1"]
    await archive.replace("one", {})
    assert await archive.count("one") == 0


async def test_readers_never_see_an_archive_half_replaced(database: Database) -> None:
    archive = ArchiveRepository(database)
    old: dict[str, Record] = {f"old{n}": {} for n in range(50)}
    new: dict[str, Record] = {f"new{n}": {} for n in range(80)}
    await archive.put("one", old)
    seen = set()
    ended = False

    async def read() -> None:
        while not ended:
            seen.add(await archive.count("one"))

    reading = asyncio.create_task(read())
    for _ in range(5):
        await archive.replace("one", new)
        await archive.replace("one", old)
    ended = True
    await reading
    assert seen <= {50, 80}


async def test_pages_of_the_keys_cover_every_record_once(database: Database) -> None:
    archive = ArchiveRepository(database)
    shuffled = random.Random(1).sample(ODD_KEYS, len(ODD_KEYS))
    await archive.put("one", {key: {"k": key} for key in shuffled})
    keys: list[str] = []
    while page := await archive.keys("one", keys[-1] if keys else "", 3):
        keys += page
    assert sorted(keys) == sorted(ODD_KEYS)
    assert len(await archive.items("one", keys)) == len(ODD_KEYS)


async def test_a_record_that_is_the_same_is_not_written_again(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {"a": {"t": 1}, "b": {"t": 1}})
    at = select(archive_item.c.entity_key, archive_item.c.imported_at).order_by("entity_key")
    async with database.transaction() as connection:
        before = list(await connection.execute(at))
    await archive.put("one", {"a": {"t": 1}, "b": {"t": 2}})
    async with database.transaction() as connection:
        after = list(await connection.execute(at))
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


async def test_thousands_of_records_go_in_one_call(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {f"{n:05d}": {"n": n} for n in range(7_000)})
    assert await archive.count("one") == 7_000


async def test_embeddings_come_with_the_hash_that_they_were_made_from(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {key: {"k": key} for key in "abc"})
    await _embed(database, "a", "ha")
    await _embed(database, "b", "hb")
    await _embed(database, "c", "hc", model="other")
    await _embed(database, "gone", "hg")
    assert await archive.embedded("one", "m", ["a", "b", "c"]) == {"a": "ha", "b": "hb"}
    assert await archive.drop_orphans("one", "m") == ["gone"]
    assert await archive.embeddings("one", "m") == [("a", "ha", None, b"a"), ("b", "hb", None, b"b")]


async def test_the_run_that_settled_all_is_the_newest_whole_one_that_left_nothing_out(
    database: Database,
) -> None:
    ledger = Ledger(database)

    async def settled() -> str:
        return await ledger.archive.last_settled_run("triage", "stored", "v1")

    assert await settled() == ""
    first = await ledger.start(2, 2)
    assert await settled() == "", "it has not ended"
    await ledger.finish(await ledger.claim())
    assert await settled() == first
    await ledger.runs.cancel(await ledger.start(2, 2))
    failed = await ledger.start(2, 2)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys))
    replay = await ledger.runs.replay(failed)
    await ledger.finish(await ledger.claim())
    assert (await ledger.progress(replay)).state == "done"
    for variant, version in (("other", "v1"), ("stored", "v2")):
        await ledger.start(1, 1, variant=variant, variant_version=version)
        await ledger.finish(await ledger.claim())
    assert await settled() == first, "cancelled, failed in part, in part only, or another's"
    second = await ledger.start(2, 2)
    await ledger.finish(claim := await ledger.claim(), dead_of(claim.keys, abstained=True))
    assert await settled() == second


async def test_records_of_an_odd_shape_are_read_back_as_they_were(database: Database) -> None:
    archive = ArchiveRepository(database)
    records: dict[str, Record] = {
        "numbers": {"a": 1, "b": 1.5, "c": -2, "d": 2**53, "e": 1e-7},
        "nothing": {},
        "texts": {"": "", "ä": "🙂", "quote": 'a"b\\c\n'},
        "deep": {"a": [{"b": [None, True, {"c": []}]}]},
    }
    await archive.put("one", records)
    found = {item.entity_key: item for item in await archive.items("one", list(records))}
    assert {key: item.record for key, item in found.items()} == records
    assert all(item.input_hash == input_hash(records[key]) for key, item in found.items())
