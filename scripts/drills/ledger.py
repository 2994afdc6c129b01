"""What was acknowledged, and whether it is stored."""

import asyncio
import time
from collections.abc import Iterable

import asyncpg
from drills.load import Sample

PORTION = 1_000
STORED_WITHIN_S = 60.0


async def lost(database_url: str, samples: Iterable[Sample]) -> set[str]:
    """Ids that callers were told and that are still not in the database a minute later."""
    missing = {sample.kept for sample in samples if sample.kept}
    until = time.monotonic() + STORED_WITHIN_S
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        while True:
            for table in ("inference", "feedback"):
                ids = sorted(missing)
                for start in range(0, len(ids), PORTION):
                    query = f"SELECT id FROM {table} WHERE id = ANY($1)"  # noqa: S608 - of two words
                    rows = await connection.fetch(query, ids[start : start + PORTION])
                    missing -= {row["id"] for row in rows}
            if not missing or time.monotonic() > until:
                return missing
            await asyncio.sleep(0.5)
    finally:
        await connection.close()
