"""A bounded, durable buffer between the request path and the database.

Records are appended to a segment file at once (so a killed process loses none of them) and moved to
the database in batches in the background. While the database is away segments pile up, up to a
limit; memory stays flat, because a segment is read back from its file.

One process owns one folder, by a lock on a file in it. A folder that nobody holds was left by a
process that died: whoever finds it moves its segments to the database too.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import structlog

from trivium.errors import Unavailable

log = structlog.get_logger()
SEGMENT_BYTES = 4 * 1024 * 1024
Record = dict[str, Any]


class Journal:
    """Segments `<number>.jsonl` in a folder of this process's own."""

    def __init__(self, root: Path, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.waiting = 0
        self._folder = self._own_folder()
        self._number = 0
        self._written = 0
        self._closed_bytes = 0
        self._file = self._open()

    def append(self, record: Record, *, durable: bool = False) -> bool:
        """Appends a record; False if the journal or the disk is full.

        `durable` also waits for the disk, so that even a power cut loses nothing; durable records
        are taken beyond the limit.

        Raises:
            Unavailable: a durable record could not be written.
        """
        line = orjson.dumps(record, default=str) + b"\n"
        if not durable and self._closed_bytes + self._written + len(line) > self.max_bytes:
            return False
        if not self._write(line):
            if durable:
                raise Unavailable("The journal's disk is full", retry_after_s=10)
            return False
        if durable:
            os.fsync(self._file)
        self._written += len(line)
        self.waiting += 1
        if self._written >= SEGMENT_BYTES:
            self._rotate()
        return True

    def closed_segments(self) -> list[Path]:
        """Ends the current segment, if it holds anything; returns all ended ones, oldest first."""
        if self._written:
            self._rotate()
        ours = sorted(self._folder.glob("*.jsonl"))[:-1]
        return [*self._orphans(), *ours]

    def forget(self, segment: Path) -> None:
        """Deletes a segment whose records are stored."""
        if segment.parent == self._folder and segment.exists():
            self._closed_bytes -= segment.stat().st_size
        segment.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the journal; its folder goes if nothing is left in it."""
        os.close(self._file)
        if not any(path.stat().st_size for path in self._folder.glob("*.jsonl")):
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _own_folder(self) -> Path:
        name = f"{os.getpid()}-{os.urandom(3).hex()}"
        hidden = self.root / f".{name}"
        hidden.mkdir(parents=True)
        self._lock = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Under its own name only when it is locked: nobody takes it for an orphan's.
        return hidden.rename(self.root / name)

    def _write(self, line: bytes) -> bool:
        """Writes a whole line or nothing; a stump would make the next record unreadable."""
        at = os.lseek(self._file, 0, os.SEEK_END)
        try:
            whole = os.write(self._file, line) == len(line)
        except OSError:
            whole = False
        if not whole:
            os.ftruncate(self._file, at)
        return whole

    def _open(self) -> int:
        self._number += 1
        path = self._folder / f"{self._number:08d}.jsonl"
        return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        os.close(self._file)
        self._closed_bytes += self._written
        self._written = 0
        self._file = self._open()

    def _orphans(self) -> Iterator[Path]:
        for lock in sorted(self.root.glob("[!.]*/lock")):
            if lock.parent == self._folder:
                continue
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its process ended meanwhile, with nothing left over
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            finally:
                os.close(handle)
            segments = sorted(lock.parent.glob("*.jsonl"))
            if not segments:
                shutil.rmtree(lock.parent, ignore_errors=True)
            yield from segments


def read_segment(segment: Path) -> Iterator[Record]:
    """The records of a segment; a line that a crash cut short is passed over.

    Another process that found the same orphan may have carried it over already: then there are none.
    """
    try:
        lines = segment.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = orjson.loads(line) if line.endswith(b"\n") else None
        except orjson.JSONDecodeError:
            log.error("journal_line_unreadable", segment=str(segment), bytes=len(line))
            continue
        if record is not None:
            yield record
