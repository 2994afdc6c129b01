"""Who runs when: as many runs at once as there are CPUs, and a bounded line before them.

There is no timer. A request's texts are cut into small batches of like length; batches of different
requests take turns, so that a large request does not keep a small one waiting.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edge_model.runtime import Model, Outputs
from trivium.errors import Overloaded, StepTimeout
from trivium.metrics import EDGE_ITEMS, EDGE_REFUSED, EDGE_SLOTS, QUEUE_DEPTH

BATCH = 8


class Runner:
    """Runs models in threads, off the event loop."""

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="run")
        self._slots = asyncio.Semaphore(slots)
        self._max_waiting = max_waiting
        self._waiting = 0
        EDGE_SLOTS.set(slots)

    async def run(self, model: Model, texts: list[str], deadline: float) -> Outputs:
        """Runs texts through a model; the outputs stand in the order of the texts.

        Args:
            model: a loaded model.
            texts: at least one.
            deadline: on `time.monotonic()`'s clock.

        Raises:
            Overloaded: too much waits already.
            StepTimeout: the deadline passed before a run could begin.
        """
        if len(texts) <= BATCH:
            return await self._turn(model, texts, deadline)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        parts = []
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            parts.append(await self._turn(model, [texts[row] for row in rows], deadline))
        return _in_order(order, parts)

    def close(self) -> None:
        """Ends the threads after what they are running."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _turn(self, model: Model, texts: list[str], deadline: float) -> Outputs:
        if self._waiting >= self._max_waiting:
            EDGE_REFUSED.labels("overloaded").inc()
            raise Overloaded(f"{self._waiting} batches wait already", retry_after_s=1)
        if time.monotonic() >= deadline:
            EDGE_REFUSED.labels("deadline").inc()
            raise StepTimeout("the deadline passed before a run could begin")
        self._waiting += 1
        QUEUE_DEPTH.labels("edge").set(self._waiting)
        try:
            async with asyncio.timeout_at(_on_loop(deadline)):
                await self._slots.acquire()
        except TimeoutError:
            EDGE_REFUSED.labels("deadline").inc()
            raise StepTimeout("the deadline passed before a run could begin") from None
        finally:
            self._waiting -= 1
            QUEUE_DEPTH.labels("edge").set(self._waiting)
        running = asyncio.get_running_loop().run_in_executor(self._executor, model.run, texts)
        # The slot is free when the thread is, not when a caller leaves.
        running.add_done_callback(lambda _: self._slots.release())
        outputs = await asyncio.shield(running)
        EDGE_ITEMS.labels(model.card.name, model.card.version).inc(len(texts))
        return outputs


def _on_loop(deadline: float) -> float:
    return asyncio.get_running_loop().time() + (deadline - time.monotonic())


def _in_order(order: list[int], parts: list[Outputs]) -> Outputs:
    back = np.argsort(np.array(order))
    labels = [label for part in parts for label in part.labels]
    return Outputs(
        [labels[position] for position in back],
        np.concatenate([part.confidence for part in parts])[back],
        np.concatenate([part.probabilities for part in parts])[back],
        np.concatenate([part.embedding for part in parts])[back],
    )
