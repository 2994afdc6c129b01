"""Runs models in as many threads as there are slots, off the event loop."""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from edge_model.costs import MAX_ROWS
from edge_model.line import Batch, Line, Piece
from edge_model.runtime import Model, Outputs, Row
from trivium.errors import Overloaded, ProviderError, StepTimeout, TriviumError
from trivium.metrics import EDGE_SLOTS, EDGE_WAIT, QUEUE_DEPTH
from trivium.tracing import current

T = TypeVar("T")
BEAT_S = 0.5
MAX_LARGE = 32
PART_MS = 20.0
# While small requests come, a part is followed by a pause of so many times its own length.
PART_PAUSE = 2.0


class Runner:
    """The slots and the line before them; made in the event loop that it answers to."""

    def __init__(self, slots: int, max_queue_ms: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._line = Line(slots, max_queue_ms)
        self._errands: deque[Callable[[], None]] = deque()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._parts_changed = threading.Condition(lock)
        self._closing = False
        self._large = 0
        self._beats = [time.monotonic()] * (2 * slots)
        self._threads = [
            threading.Thread(target=work, args=(number,), name=f"{name}-{number}", daemon=True)
            for work, name, first in ((self._work, "run", 0), (self._work_on_parts, "part", slots))
            for number in range(first, first + slots)
        ]
        for thread in self._threads:
            thread.start()
        EDGE_SLOTS.set(slots)
        QUEUE_DEPTH.labels("edge").set_function(lambda: len(self._line))
        EDGE_WAIT.set_function(lambda: self.wait_ms / 1000)

    @property
    def slots(self) -> int:
        """Runs at once."""
        return self._line.slots

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the slot that has been silent longest began a run, ended one or idled."""
        return time.monotonic() - min(self._beats)

    @property
    def wait_ms(self) -> float:
        """Predicted milliseconds that a request which came now would wait."""
        return self._line.wait_ms(time.monotonic())

    def refuse_if_full(self) -> None:
        """Raises Overloaded if the line is full, before anything is read of a request."""
        now = time.monotonic()
        if self._line.is_full(now):
            wait_s = self._line.wait_ms(now) / 1000
            raise Overloaded(f"the line is {wait_s * 1000:.0f} ms long", retry_after_s=wait_s)

    async def run(self, model: Model, rows: list[Row], deadline: float) -> Outputs:
        """Runs rows through a model; the outputs stand in the order of the rows.

        A large request, of more than MAX_ROWS rows, is cut into parts of like length that run one after
        the other and let small requests go first.

        Args:
            model: a model that passed its canary.
            rows: at least one.
            deadline: on `time.monotonic()`'s clock.

        Raises:
            Overloaded: what waits already is too much, or too much for the deadline.
            StepTimeout: the deadline passed, or is too near for a run.
        """
        if len(rows) <= MAX_ROWS:
            return await self._turn(Piece(model, rows, deadline))
        if self._large >= MAX_LARGE:
            raise Overloaded(f"{self._large} large requests are under way", retry_after_s=1)
        self._large += 1
        try:
            return await self._large_run(model, rows, deadline)
        finally:
            self._large -= 1

    async def _large_run(self, model: Model, rows: list[Row], deadline: float) -> Outputs:
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
        cuts = _cuts([rows[row] for row in order], model)
        parts: list[Outputs | None] = [None] * len(cuts)
        todo = iter(enumerate(cuts))

        async def feed() -> None:
            for part, (start, stop) in todo:
                chosen = [rows[row] for row in order[start:stop]]
                parts[part] = await self._turn(Piece(model, chosen, deadline, is_part=True))

        try:
            async with asyncio.TaskGroup() as feeders:
                for _ in range(self.slots):
                    feeders.create_task(feed())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return _in_order(order, [part for part in parts if part is not None])

    async def errand(self, work: Callable[[], T]) -> T:
        """Lends a slot to something short that is no request: a canary, a calibration."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is raised again where the errand is awaited
                future.set_exception(error)

        with self._changed:
            self._errands.append(run)
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the threads after what they are running."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._parts_changed.notify_all()
        for thread in self._threads:
            thread.join()

    async def _turn(self, piece: Piece) -> Outputs:
        piece.answer = self._loop.create_future()
        came = time.monotonic()
        with self._changed:
            self._line.offer(piece, came)
            (self._parts_changed if piece.is_part else self._changed).notify()
        timer = self._loop.call_later(piece.deadline - time.monotonic(), _expire, piece)
        try:
            outputs: Outputs = await piece.answer
        finally:
            timer.cancel()
            with self._changed:
                self._line.discard(piece)
        if (span := current()).recording and not piece.is_part:
            waited_ms = (piece.began - came) * 1000
            ran_ms = (time.monotonic() - piece.began) * 1000
            span.set({"trivium.edge.wait_ms": waited_ms, "trivium.edge.run_ms": ran_ms})
        return outputs

    def _work(self, slot: int) -> None:
        while True:
            with self._changed:
                self._line.done(slot)
                while not (self._errands or self._line.has_next or self._closing):
                    self._beats[slot] = time.monotonic()
                    self._changed.wait(BEAT_S)
                if self._closing:
                    return
                self._beats[slot] = now = time.monotonic()
                errand = self._errands.popleft() if self._errands else None
                batch, expired = (None, []) if errand else self._line.take(slot, now)
                if self._line.has_next:  # what this slot left may be for one that sleeps
                    self._changed.notify()
            if expired:
                self._tell(expired, StepTimeout("the deadline passed, or came too near, while it waited"))
            if errand:
                errand()
            if batch:
                for piece in batch.pieces:
                    piece.began = now
                self._tell(batch.pieces, self._outputs(batch))

    def _work_on_parts(self, number: int) -> None:
        _lower_priority()
        while True:
            with self._changed:
                while not (self._line.has_part(time.monotonic()) or self._closing):
                    self._beats[number] = time.monotonic()
                    self._parts_changed.wait(BEAT_S)
                if self._closing:
                    return
                self._beats[number] = now = time.monotonic()
                batch, expired = self._line.take_part(now)
                if self._line.has_part(now):
                    self._parts_changed.notify()
            if expired:
                self._tell(expired, StepTimeout("the deadline passed while it waited"))
            if batch:
                outcome = self._outputs(batch)
                self._tell(batch.pieces, outcome)
                took_s = time.monotonic() - now
                with self._changed:
                    pause_s = 0.0 if self._line.is_quiet(now) else PART_PAUSE * took_s
                time.sleep(pause_s)
                with self._changed:
                    self._line.part_done()

    def _outputs(self, batch: Batch) -> Outputs | TriviumError:
        model = batch.pieces[0].model
        rows = [row for piece in batch.pieces for row in piece.rows]
        started = time.perf_counter()
        try:
            outputs = model.answer(rows)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises ends this batch alone
            return ProviderError(f"{model} failed: {error}")
        if not batch.pieces[0].is_part:  # what others displace takes longer than it costs
            model.costs.observe(batch.cost_ms, (time.perf_counter() - started) * 1000)
        model.metrics.items.inc(len(rows))
        model.metrics.batch.observe(len(rows))
        model.metrics.cost_ratio.set(model.costs.ratio)
        return outputs

    def _tell(self, pieces: list[Piece], outcome: Outputs | TriviumError) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(_deliver, pieces, outcome)


def _lower_priority() -> None:
    """Lets the system run this thread when nothing else wants the CPU; on Linux that is a thread's own."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def _cuts(rows: list[Row], model: Model) -> list[tuple[int, int]]:
    """Where rows in order of their lengths are cut: up to MAX_ROWS a part, and about PART_MS of a slot."""
    cuts = []
    start = 0
    while start < len(rows):
        stop = min(start + MAX_ROWS, len(rows))
        while stop > start + 1 and model.cost_ms(rows[start:stop]) > PART_MS:
            stop -= 1
        cuts.append((start, stop))
        start = stop
    return cuts


def _deliver(pieces: list[Piece], outcome: Outputs | TriviumError) -> None:
    start = 0
    for piece in pieces:
        stop = start + len(piece.rows)
        # A caller that left has a future that is done; the others of its batch get theirs.
        if not piece.answer.done():
            if isinstance(outcome, Outputs):
                piece.answer.set_result(outcome.rows(start, stop))
            else:
                piece.answer.set_exception(outcome)
        start = stop


def _expire(piece: Piece) -> None:
    if not piece.answer.done():
        piece.answer.set_exception(StepTimeout("the deadline passed"))


def _in_order(order: list[int], parts: list[Outputs]) -> Outputs:
    joined = Outputs.joined(parts)
    back = [0] * len(order)
    for position, row in enumerate(order):
        back[row] = position
    return Outputs(joined.probabilities[back], joined.embedding[back], joined.in_scope[back])
