"""What a run costs: milliseconds by padded tokens and rows, measured on this CPU when a model loads."""

import time
from collections.abc import Callable
from itertools import pairwise

MAX_ROWS = 8
ROWS = (1, 2, 4, MAX_ROWS)
REPEATS = 2
MIN_GAIN = 0.05
"""A batch of twice the rows must make a row cheaper by this share, or it is not worth its latency."""
_SMOOTHING = 0.05
_RATIO_BOUNDS = (0.25, 8.0)


class CostModel:
    """Predicts a run's milliseconds: a calibrated table, times a ratio that follows the runs.

    The ratio takes in what the calibration could not see: neighbours on the machine, a slower clock.
    """

    def __init__(self, max_tokens: int) -> None:
        self.widths = [width for width in (4, 8, 16, 24, 32, 48, 64, 128, 256) if width < max_tokens]
        self.widths.append(max_tokens)
        self.ratio = 1.0
        self._ms: list[list[float]] = []
        self._best_rows: list[int] = []

    def fill(self, points: dict[tuple[int, int], float]) -> None:
        """Takes measured milliseconds by (width, rows) and interpolates all that lies between.

        Every width must be there, with one row or with all of ROWS.
        """
        sizes = [rows for rows in ROWS if (self.widths[0], rows) in points]
        by_width = [
            (width, _between([(rows, points[width, rows]) for rows in sizes], sizes[-1]))
            for width in self.widths
        ]
        columns = [
            _between([(width, line[rows]) for width, line in by_width], self.widths[-1])
            for rows in range(sizes[-1] + 1)
        ]
        self._ms = [list(column) for column in zip(*columns, strict=True)]
        self._best_rows = [_best(line, sizes) for line in self._ms]

    def predict_ms(self, width: int, rows: int = 1) -> float:
        """Milliseconds of a run of `rows` rows, as many as were calibrated, padded to `width` tokens."""
        return self._ms[width][rows] * self.ratio

    def best_rows(self, width: int) -> int:
        """The rows from which on batching more rows of this width gains nothing; 1: it never does."""
        return self._best_rows[width]

    def observe(self, predicted_ms: float, took_ms: float) -> None:
        """Moves the ratio towards what a run really took."""
        told = self.ratio * took_ms / predicted_ms
        told = min(max(told, _RATIO_BOUNDS[0]), _RATIO_BOUNDS[1])
        self.ratio += _SMOOTHING * (told - self.ratio)

    def relax(self) -> None:
        """Moves the ratio back towards the calibration, so that one bad moment does not refuse for ever."""
        self.ratio += _SMOOTHING * (1.0 - self.ratio) if self.ratio > 1 else 0.0


def timed_ms(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _between(points: list[tuple[int, float]], last: int) -> list[float]:
    """Values for 0 … last, linear between the points, flat before the first."""
    values = [points[0][1]] * (points[0][0] + 1)
    for (start, low), (stop, high) in pairwise(points):
        step = (high - low) / (stop - start)
        values += [low + step * (at - start) for at in range(start + 1, stop + 1)]
    return values[: last + 1]


def _best(line: list[float], sizes: list[int]) -> int:
    best = 1
    for fewer, more in pairwise(sizes):
        if line[more] / more > (1 - MIN_GAIN) * line[fewer] / fewer:
            break
        best = more
    return best
