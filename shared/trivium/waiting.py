"""Waiting that is bounded even where a cancelled call takes its time to end."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class TookTooLong(Exception):
    """A call did not end in time; not a TimeoutError, which the call itself may raise."""


async def at_most(seconds: float, call: Awaitable[T]) -> T:
    """The call's result, if it comes in time; waits not a moment for the clean-up of one that does not.

    Raises:
        TookTooLong: it did not come. The call is cancelled, and what it still raises is not heard.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(_unheard)
        raise
    if done:
        return task.result()
    task.cancel()
    task.add_done_callback(_unheard)
    raise TookTooLong


def _unheard(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
