"""What the commands about rollouts read and set: the configured database and flags."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from trivium.flag_admin import FlagAdminSettings
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.rollouts.status import Sources


class RolloutSettings(StoreSettings, FlagAdminSettings):
    """What the commands about rollouts read from the environment."""


@asynccontextmanager
async def opened(settings: RolloutSettings, *, migrated: bool = True) -> "AsyncIterator[Sources]":
    """The sources, closed after the block; without `migrated` the database is not looked at.

    Raises:
        Unavailable: the database is away.
    """
    import aiohttp
    from sqlalchemy import select

    from trivium.flag_admin import make_flag_admin
    from trivium.rollouts.stages import Rollouts
    from trivium.rollouts.status import Sources
    from trivium.store.attempts import AttemptRepository
    from trivium.store.decisions import DecisionRepository
    from trivium.store.engine import Database, migrate
    from trivium.store.outcomes import OutcomeRepository

    settings = settings.model_copy(update={"flags_file": settings.resolved_flags_file})
    database = Database(settings.resolved_database_url)
    try:
        if migrated:
            async with database.reading() as connection:  # that it is away is told here, not by Alembic
                await connection.execute(select(1))
            await migrate(database)
        async with aiohttp.ClientSession() as session:
            rollouts = Rollouts(DecisionRepository(database), make_flag_admin(settings, session))
            yield Sources(rollouts, OutcomeRepository(database), AttemptRepository(database))
    finally:
        await database.close()
