"""Two evaluations on the same cases: what differs more than by chance, and which cases flipped."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trivium.domain.evaluation import Difference, holm, mcnemar
from trivium.domain.manifest import Threshold
from trivium.evals.runner import CaseRun
from trivium.evals.summary import SEED

RESAMPLES = 10_000
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Scored:
    """One case of an evaluation, all of its repeats together: mean scores by metric, the first output."""

    scores: dict[str, float]
    output: dict[str, Any] | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Flip:
    """A case that one of the two has right and the other has not, with what was asked and expected."""

    case_id: str
    metric: str
    input: dict[str, Any]
    expected: dict[str, Any]
    before: float
    after: float
    was: Scored
    now: Scored

    @property
    def better(self) -> bool:
        """Whether the candidate is the one that has it right."""
        return self.after > self.before


def differences(
    baseline: Mapping[str, Scored],
    candidate: Mapping[str, Scored],
    kinds: Mapping[str, str],
    gates: Mapping[str, Threshold],
) -> list[Difference]:
    """Compares every metric that both have, on the cases that both have.

    Shares of single runs go by McNemar's exact test; means, and shares of repeats, by a paired bootstrap of t
    over the cases. Intervals are the middle 95 % of the bootstrap's means.
    """
    shared = [case for case in baseline if case in candidate]
    found = []
    for metric, kind in kinds.items():
        pairs = np.array(
            [[baseline[c].scores.get(metric, 0.0), candidate[c].scores.get(metric, 0.0)] for c in shared]
        )
        if len(pairs) and any(metric in one.scores for one in baseline.values()):
            found.append(_difference(metric, kind, pairs, gates.get(metric)))
    adjusted = holm([one.p for one in found])
    return [replace(one, adjusted_p=p) for one, p in zip(found, adjusted, strict=True)]


def _difference(metric: str, kind: str, pairs: Any, gate: Threshold | None) -> Difference:
    gains = np.round(pairs[:, 1] - pairs[:, 0], 12)  # what is left of a rounding is no difference
    n = len(gains)
    means, errors = _resampled(gains)
    low, high = np.quantile(means, [0.025, 0.975])
    if kind == "share" and set(np.unique(pairs)) <= {0.0, 1.0}:
        p, test = mcnemar(int((gains > 0).sum()), int((gains < 0).sum())), "McNemar, exact"
    else:
        p, test = _bootstrap_p(gains, means, errors), "paired bootstrap"
    lower = gate is not None and gate.min is None and gate.max is not None
    before, after = float(pairs[:, 0].mean()), float(pairs[:, 1].mean())
    return Difference(metric, before, after, float(low), float(high), p, p, test, n, lower)


def _resampled(gains: Any) -> tuple[Any, Any]:
    """The mean and its standard error of every resample of the cases."""
    rng = np.random.default_rng(SEED)
    n = len(gains)
    means, errors = [], []
    for _ in range(0, RESAMPLES, AT_ONCE):
        drawn = gains[rng.integers(0, n, (AT_ONCE, n))]
        means.append(drawn.mean(axis=1))
        errors.append(drawn.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(AT_ONCE))
    return np.concatenate(means), np.concatenate(errors)


def _bootstrap_p(gains: Any, means: Any, errors: Any) -> float:
    """How often a t as large would be seen if nothing differed (Efron and Tibshirani, Introduction, 16.4).

    Few cases prove nothing: it is never under what the best of all changes of their signs would give.
    """
    differing = int((gains != 0).sum())
    if not differing:
        return 1.0
    spread = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    seen = abs(gains.mean()) / spread if spread > 0 else np.inf
    apart = np.abs(means - gains.mean())
    # A resample of one case over and over has no spread: its t is without bounds, unless it is no difference.
    t = np.where(errors > 0, apart / np.where(errors > 0, errors, 1.0), np.where(apart > 1e-12, np.inf, 0.0))
    p = float((np.sum(t >= seen - 1e-12) + 1) / (len(means) + 1))
    return max(p, min(1.0, 2.0 ** (1 - differing)))


def flips(
    baseline: Mapping[str, Scored],
    candidate: Mapping[str, Scored],
    kinds: Mapping[str, str],
    runs: Iterable[CaseRun],
) -> list[Flip]:
    """The cases that went from right to wrong or back in a share, by the majority of their repeats.

    `runs` are the candidate's, for what was asked and expected.
    """
    about = {run.case_id: run for run in runs}
    found = []
    for case_id, was in baseline.items():
        now = candidate.get(case_id)
        for metric in (name for name, kind in kinds.items() if kind == "share") if now else ():
            assert now
            before, after = was.scores.get(metric, 0.0), now.scores.get(metric, 0.0)
            if (before >= 0.5) != (after >= 0.5):
                run = about[case_id]
                found.append(Flip(case_id, metric, run.input, run.expected, before, after, was, now))
    return sorted(found, key=lambda flip: (flip.better, flip.case_id))


def scored(rows: Sequence[Mapping[str, Any]]) -> dict[str, Scored]:
    """The stored cases of an evaluation, each with its repeats put together."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case_id"], []).append(row)
    made = {}
    for case_id, some in by_case.items():
        names = {name for row in some for name in row["scores"]}
        means = {name: sum(float(row["scores"].get(name, 0.0)) for row in some) / len(some) for name in names}
        failure = next((row["failure"] for row in some if row["failure"]), None)
        made[case_id] = Scored(means, some[0]["output"], failure)
    return made
