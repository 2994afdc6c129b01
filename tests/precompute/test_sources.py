"""Where a run's entities come from, and what of it is an entity."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from support.workers import make_features
from trivium.domain.manifest import PrecomputedVariant
from trivium.errors import ConfigurationError, DatasetError, MalformedBody, TooLarge, Unavailable
from trivium.features import find_feature
from trivium.precompute.records import Checker
from trivium.precompute.sources import Portion, of_archive, of_lines, of_query, of_url, unpacked
from trivium.store.archive import ArchiveRepository
from trivium.store.engine import Database


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    feature = find_feature(make_features(tmp_path_factory.mktemp("features")), "ticket-triage")
    spec = feature.variants["by-edge"].spec
    assert isinstance(spec, PrecomputedVariant)
    return Checker(feature, spec)


def _lines(count: int) -> list[bytes]:
    return [json.dumps({"id": f"K-{n}", "text": f"text {n}"}).encode() for n in range(count)]


async def _stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _all(portions: AsyncIterator[Portion]) -> list[Portion]:
    return [portion async for portion in portions]


async def _unpacked(*parts: bytes, gzipped: bool = False) -> list[bytes]:
    lines = unpacked(_stream(*parts), gzipped=gzipped, max_bytes=10_000, max_line=1_000)
    return [one async for one in lines]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"nope", "not JSON"),
        (b"[1]", "a list, not an object"),
        (b'{"text": "x"}', "id: null is no entity_key"),
        (b'{"id": "", "text": "x"}', "is no entity_key"),
        (b'{"id": true, "text": "x"}', "id: true is no entity_key"),
        (b'{"id": "1"}', '"text" is a required property'),
        (b'{"id": "1", "text": 5}', "input.text"),
        (b'{"id": "1", "text": "a\\u0000b"}', "null character"),
        (b'{"id": "a\\u0000", "text": "x"}', "null character"),
        (json.dumps({"id": "k" * 513, "text": "x"}).encode(), "is no entity_key"),
    ],
)
def test_a_line_that_is_no_entity_says_what_is_wrong(checker: Checker, line: bytes, told: str) -> None:
    with pytest.raises(DatasetError) as raised:
        checker.parse(line)
    assert told in raised.value.detail


def test_a_record_is_cut_to_what_the_feature_reads(checker: Checker) -> None:
    assert checker.parse(b'{"id": 7, "text": "x", "label": "y", "more": [1]}') == ("7", {"text": "x"})


async def test_bad_lines_are_told_by_number_and_the_good_ones_are_taken(checker: Checker) -> None:
    lines = _lines(5)
    lines[1:1] = [b"nope", b""]
    lines.append(b'{"id": "z"}')
    portions = await _all(of_lines(_stream(*lines), checker, 2))
    assert [key for portion in portions for key in portion.keys] == [f"K-{n}" for n in range(5)]
    assert [bad["line"] for portion in portions for bad in portion.bad] == [2, 8]
    assert portions[-1].place == {"line": 8}


async def test_an_import_goes_on_behind_the_line_where_it_stopped(checker: Checker) -> None:
    portions = await _all(of_lines(_stream(*_lines(10)), checker, 4))
    rest = await _all(of_lines(_stream(*_lines(10)), checker, 4, start=portions[0].place["line"]))
    assert [p.keys for p in rest] == [p.keys for p in portions[1:]]


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_lines_are_found_wherever_the_stream_was_cut(size: int) -> None:
    raw = b"\n".join(_lines(20))
    parts = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert await _unpacked(*parts) == _lines(20)
    packed = gzip.compress(raw + b"\n")
    parts = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert await _unpacked(*parts, gzipped=True) == _lines(20)


async def test_a_body_is_bounded_when_it_is_unpacked() -> None:
    bomb = gzip.compress(b"a\n" * 5_000_000)
    with pytest.raises(TooLarge, match="10000 bytes when unpacked"):
        await _unpacked(bomb, gzipped=True)
    with pytest.raises(TooLarge, match="line"):
        await _unpacked(b"x" * 1_500)


async def test_a_body_that_is_cut_short_or_no_gzip_is_refused() -> None:
    packed = gzip.compress(b"\n".join(_lines(20)))
    with pytest.raises(MalformedBody, match="cut short"):
        await _unpacked(packed[:-9], gzipped=True)
    with pytest.raises(MalformedBody, match="not gzip"):
        await _unpacked(b"plain", gzipped=True)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.csv.gz"])
async def test_files_are_read_by_their_ending(checker: Checker, tmp_path: Path, name: str) -> None:
    raw = (
        b"\n".join(_lines(5))
        if ".jsonl" in name
        else b"id,text\n" + b"".join(f"K-{n},text {n}\n".encode() for n in range(5))
    )
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    for url in (str(path), f"file://{path}"):
        portions = await _all(of_url(url, checker, 2))
        assert [key for portion in portions for key in portion.keys] == [f"K-{n}" for n in range(5)]


async def test_a_file_that_is_not_there_and_a_scheme_that_is_none_are_told(checker: Checker) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        await _all(of_url("/nowhere/rows.jsonl", checker, 2))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await _all(of_url("gopher-like://x/rows.jsonl", checker, 2))


@pytest.fixture
async def crm(database: Database) -> AsyncIterator[str]:
    """A database with a table of the operator's own."""
    async with database.transaction() as connection:
        columns = "id INTEGER, text VARCHAR(99), open BOOLEAN, f FLOAT"
        await connection.execute(text(f"CREATE TABLE ticket ({columns})"))
        await connection.execute(
            text("INSERT INTO ticket VALUES (:id, :text, :open, 0.5)"),
            [{"id": n, "text": f"text {n}", "open": n % 2 == 0} for n in range(10)],
        )
    yield database.url.render_as_string(hide_password=False)
    async with database.transaction() as connection:
        await connection.execute(text("DROP TABLE ticket"))


async def test_a_query_is_read_in_pages_of_its_key_and_goes_on_behind_one(checker: Checker, crm: str) -> None:
    sql = "SELECT id, text FROM ticket WHERE open;"
    portions = await _all(of_query(crm, sql, checker, 2))
    assert [portion.keys for portion in portions] == [["0", "2"], ["4", "6"], ["8"]]
    assert portions[0].records == {"0": {"text": "text 0"}, "2": {"text": "text 2"}}
    rest = await _all(of_query(crm, sql, checker, 2, after=portions[0].place["after"]))
    assert [portion.keys for portion in rest] == [["4", "6"], ["8"]]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT text FROM ticket", "id"),
        ("SELECT nothing FROM nowhere", "refused"),
        ("SELECT f AS id, text FROM ticket", "float"),
    ],
)
async def test_a_query_that_cannot_be_paged_is_told(checker: Checker, crm: str, sql: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        await _all(of_query(crm, sql, checker, 2))


async def test_a_database_that_is_away_is_waited_for(checker: Checker) -> None:
    with pytest.raises(Unavailable):
        await _all(of_query("postgresql+asyncpg://nobody@127.0.0.1:9/x", "SELECT 1 AS id", checker, 2))


async def test_the_archive_is_read_in_pages(database: Database) -> None:
    archive = ArchiveRepository(database)
    records: dict[str, dict[str, Any]] = {f"{n:02d}": {} for n in range(5)}
    await archive.put("one", records)
    portions = await _all(of_archive(archive, "one", 2))
    assert [portion.keys for portion in portions] == [["00", "01"], ["02", "03"], ["04"]]
    assert {portion.records is None for portion in portions} == {True}
