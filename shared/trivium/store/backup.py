"""A copy of a SQLite database, taken while it is in use."""

import asyncio
import os
import sqlite3
from pathlib import Path

from trivium.errors import ConfigurationError, Unavailable
from trivium.store.engine import Database


async def copy_to(database: Database, target: Path) -> int:
    """Copies a database to a file that only its owner can read, and checks the copy; returns its bytes.

    It is whole, as of one moment: of the start. Nobody waits for it.

    Raises:
        ConfigurationError: it is a PostgreSQL; there is a file already; or the copy is damaged.
        Unavailable: the database cannot be read.
    """
    if not database.is_sqlite:
        raise ConfigurationError(
            "TRIVIUM_DATABASE_URL is a PostgreSQL: use pg_dump, see docs/how-to/back-up.md"
        )
    return await asyncio.to_thread(_copy, Path(database.url.database or ""), target)


def _copy(source: Path, target: Path) -> int:
    if not source.is_file():
        raise ConfigurationError(f"{source}: there is no database to copy (TRIVIUM_DATABASE_URL)")
    try:
        # Nobody else's file is overwritten, not even one that appears meanwhile.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise ConfigurationError(f"{target}: is there already; name a new file") from None
    try:
        _fill(source, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target.stat().st_size


def _fill(source: Path, target: Path) -> None:
    old, new = sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=5), sqlite3.connect(target)
    try:
        # In one step: a write between two would make it begin anew, for ever under load. A database with a
        # write-ahead log lets others write meanwhile.
        old.backup(new)
        # One file: what was restored needs nothing beside it.
        new.execute("PRAGMA journal_mode=DELETE")
        found = new.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise Unavailable(f"{source} cannot be copied: {error}", retry_after_s=5) from error
    finally:
        old.close()
        new.close()
    if found != "ok":
        raise ConfigurationError(f"{source}: the copy is damaged: {found}")
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
