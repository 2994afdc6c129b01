"""Where a run's entities come from, and what of it is an entity."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from support.workers import make_features
from trivium.domain.variants import PrecomputedVariant
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


async def test_members_of_a_gzip_stream_are_all_read_wherever_it_was_cut() -> None:
    packed = b"".join(gzip.compress(line + b"\n") for line in _lines(20)) + b"\0" * 512
    for size in (1, 7, len(packed)):
        parts = [packed[at : at + size] for at in range(0, len(packed), size)]
        assert await _unpacked(*parts, gzipped=True) == _lines(20)


async def test_what_follows_a_gzip_stream_is_not_passed_over() -> None:
    packed = gzip.compress(b"a\n")
    with pytest.raises(MalformedBody, match="not gzip"):
        await _unpacked(packed + b'{"id": "not packed"}', gzipped=True)
    with pytest.raises(MalformedBody, match="cut short"):
        await _unpacked(packed + packed[:-1], gzipped=True)


async def test_a_large_body_is_unpacked_piece_by_piece_and_whole() -> None:
    raw = b"".join(f"{n:063d}\n".encode() for n in range(50_000))
    lines = unpacked(_stream(gzip.compress(raw)), gzipped=True, max_bytes=len(raw), max_line=63)
    assert [int(line) async for line in lines] == list(range(50_000))


async def test_a_long_line_is_refused_also_where_its_end_is_there() -> None:
    assert await _unpacked(b"x" * 1_000 + b"\n" + b"y" * 1_000) == [b"x" * 1_000, b"y" * 1_000]
    for parts in ([b"x" * 1_001 + b"\ny\n"], [b"x" * 600, b"x" * 401 + b"\n"], [b"a\n", b"x" * 1_001]):
        with pytest.raises(TooLarge, match="line"):
            await _unpacked(*parts)


async def test_an_empty_body_has_no_lines_and_an_empty_gzip_stream_none_either() -> None:
    assert await _unpacked() == await _unpacked(b"") == []
    assert await _unpacked(gzip.compress(b""), gzipped=True) == []
    with pytest.raises(MalformedBody, match="cut short"):
        await _unpacked(gzipped=True)


async def test_lines_end_as_they_do_on_any_system(checker: Checker) -> None:
    raw = b"\r\n".join(_lines(3)) + b"\r\n\r\n"
    (portion,) = await _all(of_lines(_stream(*raw.split(b"\n")), checker, 5))
    assert (portion.keys, portion.bad) == (["K-0", "K-1", "K-2"], [])


async def test_of_an_entity_that_stands_twice_in_a_portion_the_later_is_taken(checker: Checker) -> None:
    lines = [b'{"id": "1", "text": "old"}', b'{"id": "1", "text": "new"}']
    (portion,) = await _all(of_lines(_stream(*lines), checker, 5))
    assert (portion.keys, portion.records) == (["1"], {"1": {"text": "new"}})


async def test_bad_lines_alone_make_portions_too(checker: Checker) -> None:
    portions = await _all(of_lines(_stream(*[b"nope"] * 5), checker, 2))
    assert [[bad["line"] for bad in portion.bad] for portion in portions] == [[1, 2], [3, 4], [5]]
    assert [portion.place["line"] for portion in portions] == [2, 4, 5]


async def test_an_import_of_a_file_goes_on_behind_the_line_where_it_stopped(
    checker: Checker, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(_lines(10)))
    portions = await _all(of_url(str(path), checker, 3))
    rest = await _all(of_url(str(path), checker, 3, start=portions[1].place["line"]))
    assert [p.keys for p in rest] == [p.keys for p in portions[2:]] == [["K-6", "K-7", "K-8"], ["K-9"]]


async def test_lines_of_a_csv_are_numbered_as_in_the_file(checker: Checker, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\n1,a\n\n2,"over\ntwo lines"\n3,b,one too many\n4\n5,c\n')
    (portion,) = await _all(of_url(str(path), checker, 50))
    assert portion.records == {"1": {"text": "a"}, "2": {"text": "over\ntwo lines"}, "5": {"text": "c"}}
    assert [bad["line"] for bad in portion.bad] == [6, 7]
    (rest,) = await _all(of_url(str(path), checker, 50, start=6))
    assert (rest.keys, [bad["line"] for bad in rest.bad]) == (["5"], [7])


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("rows.jsonl.gz", b"not gzip"),
        ("rows.jsonl.gz", gzip.compress(b"\n".join(_lines(2_000)))[:-20]),
        ("rows.jsonl.gz", gzip.compress(b"\n".join(_lines(2_000)))[:-8] + b"\0" * 8),
        ("rows.jsonl.gz", gzip.compress(b"")[:10] + b"\xff" * 50),
        ("rows.csv", b"id,text\n1," + b"x" * 200_000 + b"\n"),
        ("rows.csv", "id,text\n1,é\n".encode("latin-1")),
        ("folder", None),
        ("rows.jsonl/below-a-file", None),
    ],
    ids=["no gzip", "cut", "wrong sum", "no deflate", "huge cell", "latin 1", "a folder", "below a file"],
)
async def test_a_file_that_will_never_be_read_is_not_waited_for(
    checker: Checker, tmp_path: Path, name: str, raw: bytes | None
) -> None:
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    elif path.parent == tmp_path:
        path.mkdir()
    else:
        path.parent.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await _all(of_url(str(path), checker, 100))


async def test_what_is_before_the_damage_of_a_file_is_taken(checker: Checker, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(_lines(20_000)))[:-2_000])
    taken: list[str] = []

    async def take() -> None:
        async for portion in of_url(str(path), checker, 100):
            taken.extend(portion.keys)

    with pytest.raises(ConfigurationError, match="cannot be read"):
        await take()
    assert taken == [f"K-{n}" for n in range(len(taken))] and len(taken) > 1_000


async def test_a_query_over_nothing_has_no_portions(checker: Checker, crm: str) -> None:
    assert await _all(of_query(crm, "SELECT id, text FROM ticket WHERE id > 99", checker, 2)) == []


async def test_keys_of_a_query_may_be_texts_and_rows_that_are_no_entities_are_told(
    checker: Checker, crm: str
) -> None:
    sql = (
        "SELECT CASE WHEN id < 5 THEN 'a' ELSE 'B' END || id AS id, "
        "CASE WHEN id = 3 THEN NULL ELSE text END AS text, f AS more FROM ticket"
    )
    portions = await _all(of_query(crm, sql, checker, 3))
    keys = [key for portion in portions for key in portion.keys]
    assert sorted(keys) == sorted([*(f"a{n}" for n in (0, 1, 2, 4)), *(f"B{n}" for n in range(5, 10))])
    (bad,) = [bad for portion in portions for bad in portion.bad]
    assert bad["line"] == "id 'a3'" and "input.text" in bad["message"]


async def test_what_is_deleted_behind_a_page_moves_no_later_row_out_of_sight(
    checker: Checker, crm: str
) -> None:
    pages = of_query(crm, "SELECT id, text FROM ticket", checker, 3)
    first = await anext(pages)
    database = Database(crm)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM ticket WHERE id < 2"))
    await database.close()
    rest = await _all(pages)
    keys = [key for portion in (first, *rest) for key in portion.keys]
    assert keys == [str(n) for n in range(10)]


async def test_the_archive_is_read_on_behind_a_key(database: Database) -> None:
    archive = ArchiveRepository(database)
    await archive.put("one", {f"{n:02d}": {} for n in range(5)})
    portions = await _all(of_archive(archive, "one", 2, after="01"))
    assert [portion.keys for portion in portions] == [["02", "03"], ["04"]]
    assert portions[-1].place == {"after": "04"}
    assert await _all(of_archive(archive, "nothing", 2)) == []
