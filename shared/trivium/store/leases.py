"""Leases: which of several workers does what one of them does for all."""

from sqlalchemy import or_

from trivium.store.engine import Database
from trivium.store.tables import lease


class LeaseRepository:
    """Leases in the database, by its clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, holder: str, seconds: float) -> bool:
        """Takes a lease that is free, or one's own for as long again; False if another holds it.

        Raises:
            Unavailable: the database is away.
        """
        until = self._database.now + seconds
        new = self._database.insert(lease).values(name=name, holder=holder, until=until)
        free = or_(lease.c.holder == holder, lease.c.until < self._database.now)
        statement = new.on_conflict_do_update(
            index_elements=["name"], set_={"holder": holder, "until": until}, where=free
        ).returning(lease.c.name)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).first() is not None

    async def give_up(self, holder: str) -> None:
        """Frees all leases of a holder, so that others need not wait for their end; raises Unavailable."""
        async with self._database.transaction() as connection:
            await connection.execute(lease.delete().where(lease.c.holder == holder))
