"""Databases that are migrated once for many tests: to migrate one for each would take most of their time."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.postgres import Postgres
from trivium.store.engine import Database, migrate
from trivium.store.tables import metadata


@pytest.fixture(scope="session")
async def migrated_urls(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A migrated database of each kind."""
    file = tmp_path_factory.mktemp("migrated") / "trivium.db"
    urls = {"sqlite": f"sqlite+aiosqlite:///{file}", "postgresql": postgres.new_database()}
    for url in urls.values():
        made = Database(url)
        await migrate(made)
        await made.close()
    return urls


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_urls: dict[str, str]
) -> AsyncIterator[Database]:
    """As the fixture of all tests: a migrated, empty database; every test that takes it runs on both."""
    made = Database(migrated_urls[request.param])
    if made.is_sqlite:
        copy = shutil.copy(str(made.url.database), tmp_path / "trivium.db")
        made = Database(f"sqlite+aiosqlite:///{copy}")
    else:
        async with made.transaction() as connection:
            for table in reversed(metadata.sorted_tables):
                await connection.execute(table.delete())
    yield made
    await made.close()
