"""Holding a chunk's lease while it is worked on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from trivium.errors import Unavailable
from trivium.store.chunks import ChunkRepository, Claim


class LeaseLost(Exception):
    """Another worker has the chunk, or its run was cancelled: what was made of it is not written."""


@asynccontextmanager
async def kept(chunks: ChunkRepository, claim: Claim, lease_s: float) -> AsyncIterator[None]:
    """Renews a lease three times in its length, and interrupts the block as soon as it is lost.

    Raises:
        LeaseLost: in place of the block's own end.
    """
    task = asyncio.current_task()
    assert task is not None
    lost = False

    async def beat() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(lease_s / 3)
            with suppress(Unavailable):
                if not await chunks.renew(claim, lease_s):
                    lost = True
                    task.cancel()
                    return

    beating = asyncio.create_task(beat())
    try:
        yield
    except asyncio.CancelledError:
        if not lost:
            raise
        task.uncancel()
        raise LeaseLost from None
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
