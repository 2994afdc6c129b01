"""Where a run's entities come from: a stream of JSON lines, a file or URL, a query, the archive itself.

Each gives portions with the place after them, from which it can go on after an interruption.
"""

import asyncio
import csv
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, AnyStr

import orjson
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from trivium.errors import ConfigurationError, DatasetError, MalformedBody, TooLarge, Unavailable
from trivium.precompute.allowed import check_inside
from trivium.precompute.records import Checker, Record
from trivium.store.archive import ArchiveRepository
from trivium.store.engine import Database

Place = dict[str, Any]
MAX_LINE = 16_777_216
# What is wrong with a file, and will be when it is read again.
_UNREADABLE = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError),
    *(gzip.BadGzipFile, EOFError, zlib.error, csv.Error),
)


@dataclass(slots=True)
class Portion:
    """Entities by their keys, lines that are none, and the place after them.

    `records` is None where the entities are in the archive already.
    """

    keys: list[str] = field(default_factory=list)
    records: dict[str, Record] | None = None
    bad: list[dict[str, Any]] = field(default_factory=list)
    place: Place = field(default_factory=dict)


async def of_lines(
    lines: AsyncIterator[bytes], checker: Checker, rows: int, start: int = 0
) -> AsyncIterator[Portion]:
    """Portions of `rows` lines; the first `start` lines are passed over."""
    portion = Portion(records={})
    number = 0
    async for line in lines:
        number += 1
        if number <= start or not line.strip():
            continue
        _take(portion, checker, line, number)
        if len(portion.records or ()) >= rows or len(portion.bad) >= rows:
            yield _closed(portion, number)
            portion = Portion(records={})
    if portion.records or portion.bad:
        yield _closed(portion, number)


async def of_url(
    url: str, checker: Checker, rows: int, start: int = 0, within: str | None = None
) -> AsyncIterator[Portion]:
    """Portions of a JSONL or CSV that fsspec opens, unpacked by its ending; read off the event loop.

    With `within`, a file of this machine must lie below that, links followed. Redirects are not followed.

    Raises:
        ConfigurationError: it cannot be read. Unavailable: it cannot be reached.
    """
    reader = _lines_of(url, within)

    def some() -> list[bytes]:
        try:
            return list(islice(reader, rows))
        except _UNREADABLE as error:
            raise ConfigurationError(f"{url} cannot be read: {error}") from error
        except OSError as error:
            raise Unavailable(f"{url} cannot be reached: {error}", retry_after_s=5) from error

    async def lines() -> AsyncIterator[bytes]:
        while part := await asyncio.to_thread(some):
            for line in part:
                yield line

    async with aclosing(of_lines(lines(), checker, rows, start)) as portions:  # type: ignore[type-var]
        async for portion in portions:
            yield portion


async def of_query(
    url: str, sql: str, checker: Checker, rows: int, after: Any = None
) -> AsyncIterator[Portion]:
    """Portions of a query, by pages of its key: no page is read twice, and none grows with the table.

    Raises:
        ConfigurationError: the query is refused. Unavailable: the database is away.
    """
    key = checker.spec.key_field
    quoted = '"' + key.replace('"', '""') + '"'
    paged = f"SELECT * FROM ({sql.rstrip().rstrip(';')}) AS source"  # noqa: S608 - the operator's own
    first = text(f"{paged} ORDER BY {quoted} LIMIT :rows")
    following = text(f"{paged} WHERE {quoted} > :after ORDER BY {quoted} LIMIT :rows")
    database = Database(url)
    try:
        while True:
            given = {"rows": rows} if after is None else {"rows": rows, "after": after}
            try:
                async with database.transaction() as connection:
                    found = await connection.execute(first if after is None else following, given)
                    page = [dict(row) for row in found.mappings()]
            except SQLAlchemyError as error:
                raise ConfigurationError(f"the query of the source is refused: {_told(error)}") from error
            if not page:
                return
            if key not in page[0]:
                raise ConfigurationError(f"the query has no column {key!r}; it has {', '.join(page[0])}")
            after = page[-1][key]
            if not isinstance(after, int | str):
                kind = type(after).__name__
                raise ConfigurationError(f"the column {key!r} is a {kind}; make it a text or a whole number")
            portion = Portion(records={}, place={"after": after})
            for record in page:
                plain = orjson.loads(orjson.dumps(record, default=str))
                _take_record(portion, checker, plain, f"{key} {record[key]!r}")
            portion.keys = list(portion.records or ())
            yield portion
    finally:
        await database.close()


async def of_archive(
    archive: ArchiveRepository, name: str, rows: int, after: str = ""
) -> AsyncIterator[Portion]:
    """Portions of the archive as it stands."""
    while keys := await archive.keys(name, after, rows):
        after = keys[-1]
        yield Portion(keys, place={"after": after})


async def unpacked(
    parts: AsyncIterator[bytes], *, gzipped: bool, max_bytes: int, max_line: int
) -> AsyncIterator[bytes]:
    """The lines of a body.

    Raises:
        TooLarge: it is over `max_bytes` when unpacked, or a line is over `max_line`.
        MalformedBody: it is not gzip, or ends within.
    """
    unzip = _Unzip() if gzipped else None
    taken, rest = 0, b""
    async for part in parts:
        for piece in _pieces(unzip, part):
            taken += len(piece)
            if taken > max_bytes:
                raise TooLarge(f"The body is over {max_bytes} bytes when unpacked")
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                _bound(line, max_line)
                yield line
            _bound(rest, max_line)
    if unzip and not unzip.member.eof:
        raise MalformedBody("The body is cut short: its gzip stream has no end")
    if rest:
        yield rest


def _bound(line: bytes, most: int) -> None:
    if len(line) > most:
        raise TooLarge(f"A line of the body is over {most} bytes")


@dataclass(slots=True)
class _Unzip:
    """A gzip stream, which may have several members, as `cat a.gz b.gz` makes."""

    member: Any = field(default_factory=lambda: zlib.decompressobj(wbits=31))

    def pieces(self, part: bytes) -> Iterator[bytes]:
        while part:
            if self.member.eof:
                part = part.lstrip(b"\0")  # padding
                if not part:
                    return
                self.member = zlib.decompressobj(wbits=31)
            yield self.member.decompress(part, 1_048_576)
            part = self.member.unconsumed_tail or self.member.unused_data


def _pieces(unzip: _Unzip | None, part: bytes) -> Iterator[bytes]:
    if unzip is None:
        yield part
        return
    try:
        yield from unzip.pieces(part)
    except zlib.error as error:
        raise MalformedBody(f"The body is not gzip: {error}") from error


def _take(portion: Portion, checker: Checker, line: bytes, number: int) -> None:
    try:
        key, record = checker.parse(line)
    except DatasetError as error:
        portion.bad.append({"line": number, "message": error.detail})
    else:
        assert portion.records is not None
        portion.records[key] = record


def _take_record(portion: Portion, checker: Checker, record: Record, where: str) -> None:
    try:
        key, kept = checker.check(record)
    except DatasetError as error:
        portion.bad.append({"line": where, "message": error.detail})
    else:
        assert portion.records is not None
        portion.records[key] = kept


def _closed(portion: Portion, number: int) -> Portion:
    portion.keys = list(portion.records or ())
    portion.place = {"line": number}
    return portion


def _lines_of(url: str, within: str | None) -> Iterator[bytes]:
    import fsspec

    options = _NO_REDIRECTS if url.lower().startswith(("http://", "https://")) else {}
    opened = fsspec.open(url, "rb", compression="infer", **options)
    if within is not None and isinstance(opened.fs, fsspec.get_filesystem_class("file")):
        check_inside(opened.path, within)
    with opened as stream:
        if url.removesuffix(".gz").endswith(".csv"):
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
                rows, told = csv.DictReader(_bounded(lines)), 0
                for row in rows:
                    # So many empty ones that lines are numbered as in the file.
                    yield from [b""] * (rows.line_num - told - 1)
                    told = rows.line_num
                    # With a cell too many it must not pass for the entity that the others make.
                    yield orjson.dumps(row if None not in row else list(row.values()))
        else:
            with io.BufferedReader(stream) as lines:  # not every file system's file reads a part of a line
                yield from _bounded(lines)


def _bounded(stream: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines; a packed file of one endless line must not fill the memory."""
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise ValueError(f"a line is longer than {MAX_LINE} bytes")
        yield line


async def _refuse_redirect(response: Any) -> None:
    if 300 <= response.status < 400:
        raise ValueError(f"it answered {response.status}: redirects are not followed")


_NO_REDIRECTS = {"allow_redirects": False, "client_kwargs": {"raise_for_status": _refuse_redirect}}


def _told(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:300]
