"""What workers' manifests know: versions side by side may know different variants, and none may lose its own.

Kept as leases that every worker prolongs for what it knows. What is stored but known to no worker any more
goes when its lease has ended.
"""

import hashlib
from collections.abc import Iterable, Sequence

from sqlalchemy import select

from trivium.store.engine import Database, in_batches
from trivium.store.tables import lease

Thing = tuple[str, ...]
"""The kind (result, reference), and what it is of: feature, variant, version."""
_NAME = 128


class KnownRepository:
    """Leases on what is known, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prolong(self, things: Iterable[Thing], seconds: float) -> None:
        """Says that a worker knows these now; raises Unavailable."""
        until = self._database.now + seconds
        async with self._database.transaction() as connection:
            # In one order, so that two workers never wait for each other.
            for name, holder in sorted(map(_lease, things)):
                new = self._database.insert(lease).values(name=name, holder=holder, until=until)
                change = {"until": until, "holder": holder}
                await connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=change))

    async def unknown(self, things: Sequence[Thing], seconds: float, *, dry: bool = False) -> list[Thing]:
        """Those that no worker has known for so long; one that was never known is from now on.

        Raises:
            Unavailable: the database is away.
        """
        names = {_lease(thing)[0]: thing for thing in things}
        rows = [{"name": name, "holder": _lease(thing)[1]} for name, thing in sorted(names.items())]
        until = self._database.now + seconds
        async with self._database.transaction() as connection:
            if not dry:
                for row in rows:
                    new = self._database.insert(lease).values(**row, until=until)
                    await connection.execute(new.on_conflict_do_nothing())
            found: list[Thing] = []
            for batch in in_batches(rows):
                ended = lease.c.name.in_([row["name"] for row in batch]) & (
                    lease.c.until < self._database.now
                )
                rows_found = await connection.execute(select(lease.c.name).where(ended))
                found += [names[row.name] for row in rows_found]
        return found


def _lease(thing: Thing) -> tuple[str, str]:
    told = "/".join(thing)
    return f"known:{hashlib.sha256(told.encode()).hexdigest()[:32]}", told[:_NAME]
