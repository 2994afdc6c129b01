"""When requests are sent, decided before the first of them."""

import enum
import random
from array import array


class Arrivals(enum.StrEnum):
    """How the times between requests are spread."""

    CONSTANT = "constant"
    POISSON = "poisson"


def arrival_times(kind: Arrivals, rate: float, seconds: float, seed: int = 0) -> "array[float]":
    """Intended send times in seconds from the stage's start, ascending: `rate * seconds` of them.

    `rate` is in requests a second; there is at least one. Poisson arrivals are those of a Poisson
    process given its count, independent and uniform, so that two stages at one rate offer the same
    load; the same seed gives the same times.
    """
    count = max(1, round(rate * seconds))
    if kind is Arrivals.CONSTANT:
        return array("d", (i / rate for i in range(count)))
    source = random.Random(seed)
    return array("d", sorted(source.random() * seconds for _ in range(count)))
