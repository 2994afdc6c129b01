"""Many rows at once, alike on both databases."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import select

from trivium.store.bulk import upsert
from trivium.store.engine import Database
from trivium.store.tables import archive_embedding, archive_item, precomputed_result

ITEM = ("archive", "entity_key", "record", "input_hash", "imported_at")
ODD = [
    "plain",
    "Z",
    "a",
    "ä",
    "日本",
    "🙂",
    "a'b",
    'a"b',
    "a\\b",
    "a\tb",
    "a\nb",
    "\\N",
    "\\.",
    "%s",
    "{}",
    " ",
]


def _item(key: str, record: Any = None, digest: str = "h", at: float = 1.0) -> tuple[Any, ...]:
    return ("one", key, json.dumps(record if record is not None else {"k": key}), digest, at)


async def _write(database: Database, rows: list[tuple[Any, ...]], **options: Any) -> None:
    async with database.transaction() as connection:
        await connection.execute(select(1))
        await upsert(database, connection, archive_item, ITEM, rows, **options)


async def _read(database: Database) -> dict[str, tuple[Any, str, float]]:
    columns = (archive_item.c.entity_key, archive_item.c.record, archive_item.c.input_hash)
    async with database.transaction() as connection:
        rows: list[Any] = list(await connection.execute(select(*columns, archive_item.c.imported_at)))
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


async def test_thousands_of_rows_are_inserted_and_then_replaced(database: Database) -> None:
    keys = [f"{n:05d}" for n in range(20_000)]
    await _write(database, [_item(key) for key in keys])
    await _write(database, [_item(key, digest="new", at=2.0) for key in keys[:15_000]])
    found = await _read(database)
    assert sorted(found) == keys
    assert [sum(value[2] == at for value in found.values()) for at in (1.0, 2.0)] == [5_000, 15_000]


async def test_no_row_is_no_statement(database: Database) -> None:
    await _write(database, [])
    assert await _read(database) == {}


async def test_keys_and_texts_of_any_kind_come_back_as_they_were(database: Database) -> None:
    await _write(database, [_item(key, {"text": key, "deep": [None, True, 1.5, {"x": key}]}) for key in ODD])
    found = await _read(database)
    assert set(found) == set(ODD)
    assert all(found[key][0] == {"text": key, "deep": [None, True, 1.5, {"x": key}]} for key in ODD)


async def test_a_condition_decides_row_by_row_which_are_replaced(database: Database) -> None:
    await _write(database, [_item("older", at=1.0), _item("newer", at=5.0)])
    later = "new.imported_at > archive_item.imported_at"
    rows = [_item(key, digest="new", at=3.0) for key in ("older", "newer", "first")]
    await _write(database, rows, only_if=later)
    digests = {key: digest for key, (_, digest, _) in (await _read(database)).items()}
    assert digests == {"older": "new", "newer": "h", "first": "new"}


async def test_without_replacing_what_stands_stays(database: Database) -> None:
    await _write(database, [_item("there")])
    await _write(database, [_item("there", digest="new"), _item("first", digest="new")], replace=False)
    digests = {key: digest for key, (_, digest, _) in (await _read(database)).items()}
    assert digests == {"there": "h", "first": "new"}


async def test_values_may_be_missing_and_bytes_are_bytes(database: Database) -> None:
    result = (
        *("feature", "variant", "entity_key", "output", "input_hash", "variant_version"),
        *("confidence", "model", "cost_usd", "computed_at", "run_id"),
    )
    vector = ("archive", "entity_key", "model", "input_hash", "vector", "run_id")
    raw = bytes(range(256)) * 4
    async with database.transaction() as connection:
        await connection.execute(select(1))
        row = ("f", "v", "k", "{}", "h", "1", None, None, None, 1.5, "r")
        await upsert(database, connection, precomputed_result, result, [row])
        await upsert(database, connection, archive_embedding, vector, [("one", "k", "m", "h", raw, None)])
    async with database.transaction() as connection:
        (stored,) = (await connection.execute(select(precomputed_result))).mappings()
        (embedded,) = (await connection.execute(select(archive_embedding))).mappings()
    assert [stored[name] for name in ("confidence", "model", "cost_usd")] == [None] * 3
    assert (embedded["vector"], embedded["run_id"]) == (raw, None)


async def test_what_is_rolled_back_was_never_there(database: Database) -> None:
    await _write(database, [_item("kept")])

    async def write_and_fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(select(1))
            rows = [_item("kept", digest="new"), _item("lost")]
            await upsert(database, connection, archive_item, ITEM, rows)
            raise LookupError

    with pytest.raises(LookupError):
        await write_and_fail()
    assert {key: value[1] for key, value in (await _read(database)).items()} == {"kept": "h"}
    await _write(database, [_item("next")])
    assert set(await _read(database)) == {"kept", "next"}


async def test_a_row_that_is_refused_takes_the_others_with_it(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)not.null"):
        await _write(database, [_item("good"), ("one", "bad", "{}", None, 1.0)])
    assert await _read(database) == {}


async def test_writers_that_bring_the_same_rows_in_other_orders_do_not_block_each_other(
    database: Database,
) -> None:
    keys = [f"{n:04d}" for n in range(2_000)]
    for turn in range(3):
        await asyncio.gather(
            _write(database, [_item(key, digest=f"a{turn}") for key in keys]),
            _write(database, [_item(key, digest=f"b{turn}") for key in reversed(keys)]),
            _write(database, [_item(key, digest=f"c{turn}") for key in keys[1_000:] + keys[:1_000]]),
        )
        digests = {value[1] for value in (await _read(database)).values()}
        assert len(digests) == 1 and digests <= {f"a{turn}", f"b{turn}", f"c{turn}"}
