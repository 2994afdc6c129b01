"""Made-up traffic of a rollout: two arms, their requests and what became of them, look by look."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trivium.domain.estimate import ClusterSums
from trivium.domain.inference import Arm
from trivium.domain.scorecard import ArmOutcomes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """What subjects send, and how often it goes wrong, as (control, treatment).

    `tail`: requests of a subject are geometric with mean 5; with a tail they are Pareto with this
    exponent from 1 on, up to 2,000. `icc`: correlation of a subject's events with each other.
    """

    errors: tuple[float, float] = (0.01, 0.01)
    slow: tuple[float, float] = (0.005, 0.005)
    overrides: tuple[float, float] = (0.20, 0.20)
    judged: float = 0.4
    icc: float = 0.2
    tail: float | None = None
    skew: float = 1.0
    """What the share of treatment is multiplied with, unplanned."""
    subjects: int = 8_000
    looks: int = 100


def stage(traffic: Traffic, planned: float, random: np.random.Generator) -> Iterator[dict[Arm, ArmOutcomes]]:
    """One stage: both arms as they stand at each look, spaced evenly in time."""
    n = traffic.subjects
    treated = (random.random(n) < planned * traffic.skew).astype(np.int64)
    requests = _requests(traffic, random)
    subject = np.repeat(np.arange(n), requests)
    arrival = random.random(n)[subject]
    # In the order of subjects and, within one, of time, which is the fraction.
    moments = np.sort(subject + arrival + (1 - arrival) * random.random(len(subject)) * (1 - 1e-9))
    look = np.minimum(((moments - subject) * traffic.looks).astype(np.int64), traffic.looks - 1)
    cell = treated[subject] * traffic.looks + look
    sums = {}
    for name in ("errors", "slow", "overrides"):
        rates = np.asarray(getattr(traffic, name))[treated]
        went_wrong = random.random(len(subject)) < _propensities(rates, traffic.icc, random)[subject]
        seen = random.random(len(subject)) < traffic.judged if name == "overrides" else slice(None)
        sums[name] = _cumulated(subject[seen], went_wrong[seen], cell[seen], traffic.looks)
    for at in range(traffic.looks):
        yield {arm: _outcomes(sums, row, at) for row, arm in enumerate((Arm.CONTROL, Arm.TREATMENT))}


def _outcomes(sums: dict[str, Floats], row: int, at: int) -> ArmOutcomes:
    made = {name: _cluster_sums(of[row, at]) for name, of in sums.items()}
    return ArmOutcomes(
        subjects=made["errors"].units,
        requests=int(made["errors"].n),
        errors=made["errors"],
        slow=made["slow"],
        overrides=made["overrides"],
    )


def _requests(traffic: Traffic, random: np.random.Generator) -> Ints:
    if traffic.tail is None:
        return random.geometric(0.2, traffic.subjects)
    return np.minimum(1 + random.pareto(traffic.tail, traffic.subjects), 2_000).astype(np.int64)


def _propensities(rates: Floats, icc: float, random: np.random.Generator) -> Floats:
    """Each subject's own rate, so that events within one are correlated by `icc`: beta-binomial."""
    pairs = (1 - icc) / icc
    drawn: Floats = random.beta(np.maximum(rates * pairs, 1e-9), np.maximum((1 - rates) * pairs, 1e-9))
    return drawn


def _cumulated(subject: Ints, went_wrong: NDArray[np.bool_], cell: Ints, looks: int) -> Floats:
    """The six sums of both arms at each look: (2, looks, 6), in the order of ClusterSums' fields."""
    new = np.r_[True, subject[1:] != subject[:-1]] if len(subject) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(new, np.arange(len(subject)), 0))
    a = (np.arange(len(subject)) - first).astype(np.float64)
    e = went_wrong.astype(np.float64)
    total = np.cumsum(e) - e
    b = total - total[first]
    # What the (a + 1)-th occasion of a subject who had b events adds to each sum.
    steps = (new, None, e, 2 * a + 1, e * (2 * b + 1), (a + 1) * e + b)
    binned = [np.bincount(cell, step, 2 * looks).reshape(2, looks) for step in steps]
    return np.cumsum(np.stack(binned, axis=-1), axis=1)


def _cluster_sums(row: Floats) -> ClusterSums:
    units, n, k, nn, kk, nk = row.tolist()
    return ClusterSums(int(units), n, k, nn, kk, nk)
