"""The policy of the line, on a clock that the test turns."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edge_model.costs import ROWS, CostModel
from edge_model.line import Line, Piece
from edge_model.runtime import Row
from trivium.errors import Overloaded, StepTimeout

SLOTS = 2


def _costs(gain: float = 0.5) -> CostModel:
    """One row takes 1 ms for every 8 tokens, and each further row `1 - gain` of that."""
    made = CostModel(64)
    made.fill(
        {(width, rows): width / 8 * (1 + (rows - 1) * (1 - gain)) for width in made.widths for rows in ROWS}
    )
    return made


@dataclass(eq=False)
class _Model:
    costs: CostModel = field(default_factory=_costs)

    def cost_ms(self, rows: list[Row]) -> float:
        return self.costs.predict_ms(max(len(row.ids) for row in rows), len(rows))


MODEL: Any = _Model()


def _piece(width: int = 8, rows: int = 1, deadline_ms: float = 1000, model: Any = MODEL) -> Piece:
    return Piece(model, [Row(np.zeros(width, dtype=np.int64))] * rows, deadline_ms / 1000)


def _line(max_queue_ms: float = 50, slots: int = SLOTS) -> Line:
    return Line(slots, max_queue_ms)


def _fill_slots(line: Line) -> None:
    """Long runs in every slot, so that what follows waits."""
    for slot in range(line.slots):
        line.offer(_piece(64), 0)
        line.take(slot, 0)


def test_an_idle_slot_takes_a_piece_at_once_and_alone() -> None:
    line = _line()
    piece = _piece()
    assert line.offer(piece, 0) == 0
    batch, expired = line.take(0, 0)
    assert batch is not None
    assert (batch.pieces, batch.rows, expired, len(line)) == ([piece], 1, [], 0)


def test_there_is_no_timer_two_pieces_go_to_two_free_slots() -> None:
    line = _line()
    for _ in range(2):
        line.offer(_piece(), 0)
    for slot in range(2):
        batch, _ = line.take(slot, 0)
        assert batch is not None
        assert batch.rows == 1


def test_a_freed_slot_takes_its_share_of_the_oldest_pieces_of_one_bucket() -> None:
    line = _line()
    _fill_slots(line)
    pieces = [_piece(8), _piece(30), _piece(7), _piece(6), _piece(31), _piece(5)]
    for piece in pieces:
        line.offer(piece, 0)
    line.done(0)
    batch, _ = line.take(0, 0.001)
    assert batch is not None
    # Six wait for two slots: three are this one's share; those of other lengths are passed over.
    assert batch.pieces == [pieces[0], pieces[2], pieces[3]]
    assert batch.width == 8
    line.done(1)
    batch, _ = line.take(1, 0.001)
    assert batch is not None
    assert batch.pieces == [pieces[1], pieces[4]]


def test_a_batch_has_one_model_only() -> None:
    line, other = _line(), _Model()
    _fill_slots(line)
    for model in (MODEL, other, MODEL, other):
        line.offer(_piece(model=model), 0)
    batch, _ = line.take(0, 0)
    assert batch is not None
    assert {piece.model for piece in batch.pieces} == {MODEL}


def test_where_batching_gains_nothing_nothing_is_batched() -> None:
    line, model = _line(), _Model(_costs(gain=0.0))
    assert model.costs.best_rows(8) == 1
    _fill_slots(line)
    for _ in range(8):
        line.offer(_piece(model=model), 0)
    batch, _ = line.take(0, 0)
    assert batch is not None
    assert batch.rows == 1


def test_a_batch_grows_only_while_every_deadline_in_it_holds() -> None:
    line = _line(slots=1)
    _fill_slots(line)
    # One row takes 1 ms, two 1.5, three 2: the head has 1.8 ms left when the slot frees.
    line.offer(_piece(deadline_ms=20), 0)
    line.offer(_piece(), 0)
    line.offer(_piece(), 0)
    line.done(0)
    batch, expired = line.take(0, 0.0182)
    assert batch is not None
    assert (batch.rows, expired) == (2, [])


def test_the_line_is_bounded_in_predicted_milliseconds_not_in_pieces() -> None:
    def taken(width: int) -> int:
        line = _line(max_queue_ms=20)
        _fill_slots(line)
        count = 0
        while not line.is_full(0):
            line.offer(_piece(width), 0)
            count += 1
        with pytest.raises(Overloaded) as refused:
            line.offer(_piece(width), 0)
        assert refused.value.retry_after_s
        return count

    short, long = taken(8), taken(64)
    assert short > 4 * long > 0


def test_what_cannot_meet_its_deadline_in_line_is_refused_at_once() -> None:
    line = _line()
    _fill_slots(line)
    for _ in range(4):
        line.offer(_piece(64), 0)
    with pytest.raises(Overloaded, match="ms are left"):
        line.offer(_piece(8, deadline_ms=10), 0)
    line.offer(_piece(8, deadline_ms=100), 0)


def test_what_cannot_meet_its_deadline_on_an_idle_server_is_past_it() -> None:
    with pytest.raises(StepTimeout):
        _line().offer(_piece(64, deadline_ms=7), 0)
    with pytest.raises(StepTimeout):
        _line().offer(_piece(deadline_ms=0), 0)


def test_a_bad_moment_does_not_refuse_for_ever() -> None:
    line, model = _line(), _Model()
    for _ in range(200):
        model.costs.observe(1.0, 1000.0)
    refused = 0
    while True:
        try:
            line.offer(_piece(deadline_ms=5, model=model), 0)
        except StepTimeout:
            refused += 1
            continue
        break
    assert 0 < refused < 100


def test_what_waited_too_long_is_handed_back_instead_of_run() -> None:
    line = _line()
    _fill_slots(line)
    late, early = _piece(deadline_ms=20), _piece()
    line.offer(late, 0)
    line.offer(early, 0)
    line.done(0)
    batch, expired = line.take(0, 0.020)
    assert batch is not None
    assert (batch.pieces, expired) == ([early], [late])


def test_a_caller_that_leaves_frees_its_place() -> None:
    line = _line(max_queue_ms=10)
    _fill_slots(line)
    pieces = []
    while not line.is_full(0):
        pieces.append(_piece(64))
        line.offer(pieces[-1], 0)
    line.discard(pieces[0])
    line.discard(pieces[0])
    line.offer(_piece(64), 0)
    for piece in pieces[1:]:
        line.discard(piece)
    assert len(line) == 1


def test_an_empty_line_has_no_backlog_left_over() -> None:
    line = _line()
    rng = np.random.default_rng(7)
    now = 0.0
    for step in range(2_000):
        now += 0.0005
        piece = _piece(int(rng.integers(3, 65)), deadline_ms=now * 1000 + 60)
        try:
            line.offer(piece, now)
        except (Overloaded, StepTimeout):
            continue
        if step % 7 == 0:
            line.discard(piece)
        if step % 3 == 0:
            slot = step % SLOTS
            line.done(slot)
            line.take(slot, now)
    while len(line):
        line.take(0, now)
    for slot in range(SLOTS):
        line.done(slot)
    assert line.wait_ms(now) == 0
    assert line._backlog_ms == 0


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_under_twice_the_load_what_is_taken_meets_its_deadline(slots: int) -> None:
    """A run of the policy alone, with runs that take just what is predicted."""
    line, model = _line(slots=slots), _Model()
    rng = np.random.default_rng(3)
    ends = [0.0] * slots
    running: list[list[Piece]] = [[] for _ in range(slots)]
    met = missed = refused = 0
    now = 0.0
    for _ in range(5_000):
        now += 0.5 * 2.0 / slots / 1000  # 2 ms of one slot apiece, and twice as many as fit
        for slot in range(slots):
            while ends[slot] <= now:
                for piece in running[slot]:
                    met, missed = (met + 1, missed) if ends[slot] <= piece.deadline else (met, missed + 1)
                running[slot] = []
                line.done(slot)
                at = max(ends[slot], now - 0.001)
                batch, expired = line.take(slot, at)
                missed += len(expired)
                if batch is None:
                    break
                running[slot] = batch.pieces
                ends[slot] = at + batch.cost_ms / 1000
        try:
            line.offer(_piece(int(rng.integers(8, 25)), deadline_ms=now * 1000 + 60, model=model), now)
        except Overloaded:
            refused += 1
    assert refused > 500
    assert met > 2_000
    assert missed <= 0.01 * met


def _part(width: int = 8) -> Piece:
    return Piece(MODEL, [Row(np.zeros(width, dtype=np.int64))], 1.0, is_part=True)


def test_a_small_request_never_waits_for_a_part() -> None:
    line = _line()
    for _ in range(4):
        line.offer(_part(), 0)
    while line.has_part(0):
        batch, _ = line.take_part(0)
        assert batch is not None
        assert batch.pieces[0].is_part
    assert line.take_part(0) == (None, [])
    assert line.wait_ms(0) == 0
    line.offer(_piece(), 0)
    small, _ = line.take(0, 0)
    assert small is not None
    assert not small.pieces[0].is_part


def test_parts_have_all_slots_in_the_quiet_and_one_while_small_requests_come() -> None:
    line = _line(slots=2)
    for _ in range(5):
        line.offer(_part(), 0)
    assert line.take_part(0)[0]
    assert line.take_part(0)[0], "nobody else is there"
    assert not line.has_part(0)
    line.part_done()
    line.part_done()
    line.offer(_piece(deadline_ms=1e9), 0)
    assert line.take(0, 0)[0]
    assert line.take_part(0)[0], "they do not starve"
    assert not line.has_part(0.9)
    assert line.has_part(1.1)


def test_a_part_that_cannot_meet_its_deadline_does_not_run() -> None:
    line = _line()
    late = _part()
    line.offer(late, 0)
    assert line.take_part(5.0) == (None, [late])
    assert len(line) == 0


def test_parts_do_not_lengthen_the_line_of_the_others() -> None:
    line = _line(max_queue_ms=5)
    _fill_slots(line)
    wait_ms = line.wait_ms(0)
    for _ in range(100):
        line.offer(_part(64), 0)
    assert line.wait_ms(0) == wait_ms
