"""`infer` with `mode: stream`: what the model says while it says it, then the answer."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response

from gateway.routes.inferences import events_of
from gateway.routes.openai_stream import EventStream
from gateway.state import GatewayState
from trivium.domain.inference import Inference
from trivium.store.inferences import rows_of
from trivium.store.keys import Key


class Heard:
    """Keeps what is said until it is sent."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()

    def begins(self, target: str) -> None:
        """A target is asked."""
        self.events.put_nowait(("begin", {"target": target}))

    def says(self, text: str) -> None:
        """It says something."""
        self.events.put_nowait(("delta", {"text": text}))


async def streamed(
    state: GatewayState, key: Key, serving: Coroutine[Any, Any, Inference], heard: Heard
) -> Response:
    """The events of an answer; a fault of the question is still an error of its own."""
    task = asyncio.ensure_future(serving)
    task.add_done_callback(lambda _: heard.events.put_nowait(None))
    try:
        first = await heard.events.get()
        if first is None:
            task.result()
    except BaseException:
        task.cancel()
        raise
    return EventStream(_events(state, key, task, heard, first), {})


async def _events(
    state: GatewayState,
    key: Key,
    task: "asyncio.Task[Inference]",
    heard: Heard,
    event: tuple[str, dict[str, Any]] | None,
) -> AsyncGenerator[bytes, None]:
    try:
        while event:
            name, data = event
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
            event = await heard.events.get()
        made = await task
        row, _ = rows_of(made)
        async with aclosing(events_of(state, UUID(made.id), key, row)) as rest:
            async for each in rest:
                yield each
    finally:
        task.cancel()  # of a caller that left; an ended one stays as it is
