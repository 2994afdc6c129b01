"""Databases that are migrated once for many tests: to migrate one for each would take most of their time."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from support.postgres import Postgres
from trivium.store.engine import Database, migrate
from trivium.store.tables import metadata

_folder = TemporaryDirectory(prefix="trivium-migrated-")
_template = Path(_folder.name) / "trivium.db"


async def make_sqlite(file: Path) -> str:
    """The URL of a migrated, empty SQLite in a file; one that is there is left as it is."""
    if not _template.exists():
        half = _template.with_suffix(".half")
        await _migrate(_sqlite(half))
        half.rename(_template)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_template, file)
    return _sqlite(file)


class MigratedPostgres:
    """One migrated database of a server, emptied for each test: to make one for each would fill the disk."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._url = ""

    async def emptied(self) -> str:
        """Its URL; all its tables are empty."""
        if not self._url:
            self._url = self._server.new_database()
            await _migrate(self._url)
        database = Database(self._url)
        async with database.transaction() as connection:
            for table in reversed(metadata.sorted_tables):
                await connection.execute(table.delete())
        await database.close()
        return self._url


async def _migrate(url: str) -> None:
    database = Database(url)
    await migrate(database)
    await database.close()


def _sqlite(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"
