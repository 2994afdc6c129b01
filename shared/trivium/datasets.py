"""Reading records from CSV and JSONL files, each fault with its line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trivium.errors import DatasetError

Record = dict[str, Any]
FORMATS = (".csv", ".jsonl")


def read_records(path: Path, required: tuple[str, ...] = ()) -> Iterator[Record]:
    """Yields one dict a line of a `.csv` (with a header) or `.jsonl` file, blank lines skipped.

    Raises:
        DatasetError: no such file, another format, a malformed line, or a line without a value for
            a `required` field; the message names file, line and field.
    """
    if path.suffix not in FORMATS:
        raise DatasetError(f"{path}: the format is told by the ending, one of {', '.join(FORMATS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = _csv(path, stream) if path.suffix == ".csv" else _jsonl(path, stream)
            for number, record in lines:
                for field in required:
                    if record.get(field) in (None, ""):
                        has = ", ".join(record) or "nothing"
                        raise DatasetError(f"{path}:{number}: no value for {field!r}; it has {has}")
                yield record
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 at byte {_first_bad_byte(path)}") from error


def _first_bad_byte(path: Path) -> int:
    """Counted from the file's beginning; the reader only knows it within its buffer."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _csv(path: Path, stream: Any) -> Iterator[tuple[int, Record]]:
    reader = csv.DictReader(stream, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DatasetError(f"{path}:{reader.line_num}: more values than the header has")
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.reader.line_num}: {error}") from error


def _jsonl(path: Path, stream: Any) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            told = getattr(error, "msg", None) or str(error)
            raise DatasetError(f"{path}:{number}: not JSON: {told}") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{path}:{number}: a {type(record).__name__}, not an object")
        yield number, record
