"""Work that would hold the event loop up goes to a thread; what is small stays where it is."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T], is_large: bool) -> T:
    """The result of `work`, done in a thread if it is large: the hand-over costs some 50 µs."""
    return await asyncio.to_thread(work) if is_large else work()
