"""The line before the slots: a pure policy, without clocks, threads or I/O.

It is bounded in predicted milliseconds. There is no timer: when a slot frees it takes the oldest piece,
and with it, if the model's answers do not depend on what shares a run, what else waits for that model, as
far as this is predicted to be cheaper than to run it apart (so lengths are alike: padding costs as much
as text) and every deadline in the batch still holds.

The parts of large requests stand in a lane of their own, with slots of its own: a small request never
waits for one. One part may always run, at a low priority; more only after a second without a small one.
"""

from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any

from edge_model.costs import MIN_GAIN
from edge_model.runtime import Model, Row
from trivium.errors import Overloaded, StepTimeout

LOOK_AHEAD = 64
# Seconds without a small request after which the parts of large ones may have as many slots as they want.
QUIET_S = 1.0


@dataclass(eq=False, slots=True)
class Piece:
    """Rows that run together: a request, or (`is_part`) a part of a large one.

    `deadline` is in seconds on the clock of `now` below, as is `began`, when a slot took it; `answer` is
    whatever the caller waits on.
    """

    model: Model
    rows: list[Row]
    deadline: float
    is_part: bool = False
    answer: Any = None
    began: float = 0.0
    width: int = field(init=False)
    cost_ms: float = field(init=False)

    def __post_init__(self) -> None:
        self.width = max(len(row.ids) for row in self.rows)
        self.cost_ms = self.model.cost_ms(self.rows)


@dataclass(slots=True)
class Batch:
    """What a slot runs next."""

    pieces: list[Piece]
    width: int
    rows: int
    cost_ms: float


class Line:
    """Who waits, and who goes next."""

    def __init__(self, slots: int, max_queue_ms: float) -> None:
        self._free_at = [0.0] * slots
        self._max_queue_ms = max_queue_ms
        self._waiting: dict[Piece, None] = {}
        self._backlog_ms = 0.0
        self._parts: dict[Piece, None] = {}
        self._parts_running = 0
        self._small_at = float("-inf")

    def __len__(self) -> int:
        return len(self._waiting) + len(self._parts)

    @property
    def has_next(self) -> bool:
        """Whether a slot that is free would find something to run."""
        return bool(self._waiting)

    def has_part(self, now: float) -> bool:
        """Whether a part may run now."""
        if not self._parts or self._parts_running == 0:
            return bool(self._parts)
        return self.is_quiet(now) and self._parts_running < self.slots

    def is_quiet(self, now: float) -> bool:
        """Whether no small request has come for a while."""
        return now - self._small_at > QUIET_S

    @property
    def slots(self) -> int:
        """Runs at once."""
        return len(self._free_at)

    def wait_ms(self, now: float) -> float:
        """Predicted milliseconds until a piece that came now would begin."""
        if not self._waiting and min(self._free_at) <= now:
            return 0.0
        running_ms = sum(max(0.0, free_at - now) for free_at in self._free_at) * 1000
        return (self._backlog_ms + running_ms) / len(self._free_at)

    def is_full(self, now: float) -> bool:
        """Whether the line is as long as it may be."""
        return self.wait_ms(now) > self._max_queue_ms

    def offer(self, piece: Piece, now: float) -> float:
        """Takes a piece in; returns the predicted milliseconds that it waits.

        Raises:
            StepTimeout: it could not meet its deadline on an idle server.
            Overloaded: the line is full, or too long for its deadline.
        """
        costs = piece.model.costs
        own_ms = piece.cost_ms
        left_ms = (piece.deadline - now) * 1000
        if left_ms < own_ms:
            costs.relax()
            raise StepTimeout(f"{max(0.0, left_ms):.1f} ms are left, and a run takes about {own_ms:.1f} ms")
        if piece.is_part:
            self._parts[piece] = None
            return 0.0
        self._small_at = now
        wait_ms = self.wait_ms(now)
        if wait_ms > self._max_queue_ms:
            raise Overloaded(_full(wait_ms, self._max_queue_ms), retry_after_s=wait_ms / 1000)
        if wait_ms > 0:
            own_ms = max(own_ms, costs.predict_ms(piece.width, costs.best_rows(piece.width)))
            if wait_ms + own_ms > left_ms:
                raise Overloaded(
                    f"{left_ms:.0f} ms are left, and an answer would take about {wait_ms + own_ms:.0f} ms",
                    retry_after_s=wait_ms / 1000,
                )
        self._waiting[piece] = None
        self._backlog_ms += piece.cost_ms
        return wait_ms

    def discard(self, piece: Piece) -> None:
        """Frees the place of a piece whose caller left; nothing happens if it was taken already."""
        self._parts.pop(piece, None)
        if piece in self._waiting:
            self._remove(piece)

    def take(self, slot: int, now: float) -> tuple[Batch | None, list[Piece]]:
        """What `slot` runs next, and the pieces that can no longer meet their deadlines."""
        expired: list[Piece] = []
        while head := next(iter(self._waiting), None):
            if self._is_late(head, now):
                self.discard(head)
                head.model.costs.relax()
                expired.append(head)
                continue
            batch = self._batch(head, now)
            self._free_at[slot] = now + batch.cost_ms / 1000
            return batch, expired
        return None, expired

    def take_part(self, now: float) -> tuple[Batch | None, list[Piece]]:
        """The part that runs next, if one may, and those that can no longer meet their deadlines."""
        expired: list[Piece] = []
        while self.has_part(now):
            part = next(iter(self._parts))
            del self._parts[part]
            if self._is_late(part, now):
                expired.append(part)
                continue
            self._parts_running += 1
            return Batch([part], part.width, len(part.rows), part.cost_ms), expired
        return None, expired

    def done(self, slot: int) -> None:
        """`slot` is free."""
        self._free_at[slot] = 0.0

    def part_done(self) -> None:
        """A part has run."""
        self._parts_running -= 1

    def _batch(self, head: Piece, now: float) -> Batch:
        share = ceil(len(self._waiting) / self.slots)
        self._remove(head)
        batch = Batch([head], head.width, len(head.rows), head.cost_ms)
        costs = head.model.costs
        most = min(costs.best_rows(head.width), share)
        if batch.rows >= most:
            return batch
        earliest = head.deadline
        for piece in list(islice(self._waiting, LOOK_AHEAD)):
            rows = batch.rows + len(piece.rows)
            if piece.model is not head.model or rows > most:
                continue
            width = max(batch.width, piece.width)
            together_ms = costs.predict_ms(width, rows)
            if together_ms > (1 - MIN_GAIN) * (batch.cost_ms + piece.cost_ms):
                continue
            earliest = min(earliest, piece.deadline)
            if now + together_ms / 1000 > earliest:
                break
            self._remove(piece)
            batch.pieces.append(piece)
            batch.width, batch.rows, batch.cost_ms = width, rows, together_ms
        return batch

    def _is_late(self, piece: Piece, now: float) -> bool:
        return now + piece.cost_ms / 1000 > piece.deadline

    def _remove(self, piece: Piece) -> None:
        del self._waiting[piece]
        self._backlog_ms = self._backlog_ms - piece.cost_ms if self._waiting else 0.0


def _full(wait_ms: float, max_queue_ms: float) -> str:
    return f"the line is {wait_ms:.0f} ms long, and at most {max_queue_ms:.0f} ms may wait"
