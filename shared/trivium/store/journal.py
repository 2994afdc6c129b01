"""A bounded, durable buffer between the request path and the database.

Records are appended to a segment file at once (so a killed process loses none of them) and moved to
the database in batches in the background. While the database is away segments pile up, up to a
limit; memory stays flat, because a segment is read back from its file. Where the disk takes no more, a
few thousand records are held in memory instead: enough to lose nothing while the database is there.

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
MAX_HELD = 5_000
"""Records in memory, while the disk is full."""
Record = dict[str, Any]


class Journal:
    """Segments `<number>.jsonl` in a folder of this process's own."""

    def __init__(self, root: Path, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.filed = 0
        self._folder = self._own_folder()
        self._number = 0
        self._written = 0
        self._closed_bytes = 0
        self._held: list[Record] = []
        self._file = self._open()

    @property
    def waiting(self) -> int:
        """Records in files and in memory."""
        return self.filed + len(self._held)

    @property
    def fill(self) -> float:
        """How full its files are, 0 to 1; durable records are taken beyond."""
        return (self._closed_bytes + self._written) / self.max_bytes

    def append(self, record: Record, *, durable: bool = False) -> bool:
        """Appends a record; False if the journal is full, or the disk and what may be held in memory.

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
            return self.hold([record]) == 1
        if durable:
            self._sync()
        self._written += len(line)
        self.filed += 1
        if self._written >= SEGMENT_BYTES:
            self._rotate()
        return True

    def hold(self, records: list[Record]) -> int:
        """Keeps records in memory, as many as may be; returns how many."""
        taken = records[: MAX_HELD - len(self._held)]
        self._held += taken
        return len(taken)

    def take_held(self) -> list[Record]:
        """The records in memory, which are the caller's from now on."""
        taken, self._held = self._held, []
        return taken

    def closed_segments(self) -> list[Path]:
        """Ends the current segment, if it holds anything; returns all ended ones, oldest first."""
        if self._written:
            self._rotate()
        ours = [path for path in sorted(self._folder.glob("*.jsonl")) if path != self._path]
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
        hidden.mkdir(mode=0o700, parents=True)
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

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise Unavailable(f"The journal's disk failed: {error.strerror}", retry_after_s=10) from error

    def _open(self) -> int:
        path = self._folder / f"{self._number + 1:08d}.jsonl"
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path = path
        self._number += 1
        return file

    def _rotate(self) -> None:
        """Goes on in a new file; in the old one, while the disk has no room for another."""
        try:
            file = self._open()
        except OSError as error:
            log.warning("journal_not_rotated", error=error.strerror)
            return
        os.close(self._file)
        self._file = file
        self._closed_bytes += self._written
        self._written = 0

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
