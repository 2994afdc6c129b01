"""Which revision a database is at, which one this code is made for, and the way between them."""

from contextlib import suppress
from dataclasses import dataclass

import structlog
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from trivium.errors import ConfigurationError, Unavailable
from trivium.store.engine import Database, alembic_config, run_migrations

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schema:
    """Of a database; `revision` is None where there is none, and `known` false for one of newer code."""

    revision: str | None
    wanted: str
    known: bool

    @property
    def is_newer(self) -> bool:
        """Whether it was made by newer code: every migration leaves room for the version before."""
        return self.revision is not None and not self.known

    @property
    def fault(self) -> str | None:
        """What is missing for this code to work on it; None if nothing is."""
        if self.is_newer or self.revision == self.wanted:
            return None
        found = f"at revision {self.revision}" if self.revision else "empty"
        return f"The database is {found}, this version needs {self.wanted}: run `trivium db upgrade`"


async def schema_of(database: Database) -> Schema:
    """Looks at what revision a database is; raises Unavailable."""
    scripts = _scripts()
    head = scripts.get_current_head()
    assert head
    async with database.reading() as connection:
        there = await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version"))
        found = (
            (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
            if there
            else None
        )
    return Schema(found, head, found in {script.revision for script in scripts.walk_revisions()})


async def check_schema(database: Database) -> None:
    """Refuses to start on a schema that lacks what this code needs; one that is away is not looked at.

    Raises:
        ConfigurationError: it says what to do.
    """
    with suppress(Unavailable):
        found = await schema_of(database)
        if found.fault:
            raise ConfigurationError(found.fault)
        if found.is_newer:
            log.info("schema_is_newer", database=found.revision, code=found.wanted)


def revisions() -> list[tuple[str, str]]:
    """Every revision of this code with its title, oldest first."""
    found = [(script.revision, str(script.doc)) for script in _scripts().walk_revisions()]
    return found[::-1]


async def move(database: Database, revision: str, *, up: bool) -> None:
    """Upgrades or downgrades to a revision.

    Raises:
        ConfigurationError: there is no such revision, or it is not in that direction.
        Unavailable: the database is away, or something holds a table that has to be changed.
    """
    known = [name for name, _ in revisions()]
    wanted = {"head": known[-1]}.get(revision, revision)
    ends = known if up else ["base", *known]
    if wanted not in ends:
        raise ConfigurationError(f"There is no revision {revision!r}; there are: {', '.join(ends)}")
    found = await schema_of(database)
    if found.is_newer:
        raise ConfigurationError(
            f"The database is at revision {found.revision}, which this version does not know; its newest is "
            f"{known[-1]}. Change the schema with the version of Trivium that made it."
        )
    at = known.index(found.revision) if found.revision else -1
    to = known.index(wanted) if wanted != "base" else -1
    if (to < at) if up else (to > at):
        other = "downgrade" if up else "upgrade"
        raise ConfigurationError(
            f"The database is at revision {found.revision or 'base'}; use `trivium db {other} {revision}`"
        )
    await run_migrations(database, command.upgrade if up else command.downgrade, wanted)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config(None))
