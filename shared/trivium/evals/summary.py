"""What the runs of a dataset amount to: metrics with intervals, slices, cost and latency."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.domain.estimate import ClusterSums, Estimate, clustered_share, mean, quantile, share
from trivium.evals.evaluators import Scorer
from trivium.evals.runner import CaseRun

RESAMPLES = 1_000
SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Slice:
    """The cases with one value of one property, and the means of the metrics over them."""

    name: str
    value: str
    cases: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Summary:
    """An evaluation in figures.

    A failure counts as wrong (False, or 0) in every metric. With repeats, `passes_all` is by metric the share
    of the cases that were right every time (pass^k), and `unstable` names those that were not scored alike.
    The latency is that of the answers, the cost that of failures, too.
    """

    cases: int
    repeats: int
    failures: int
    metrics: dict[str, Estimate]
    kinds: dict[str, str]
    passes_all: dict[str, Estimate]
    unstable: list[str]
    slices: list[Slice]
    p50_ms: Estimate | None
    p99_ms: Estimate | None
    cost_usd: float | None


def summarise(runs: Sequence[CaseRun], scorers: Sequence[Scorer], repeats: int) -> Summary:
    """Sums up every run of every case."""
    by_case = grouped(runs)
    kinds = kinds_of(runs, scorers)
    metrics = {name: _estimate(name, kind, by_case.values()) for name, kind in kinds.items()}
    for scorer in scorers:
        for name, of in scorer.summaries().items():
            metrics[name] = _bootstrapped(of, list(by_case.values()))
    latencies = sorted(run.answered.latency_ms for run in runs if run.answered)
    costs = [run.cost_usd for run in runs]
    return Summary(
        cases=len(by_case),
        repeats=repeats,
        failures=sum(run.failure is not None for run in runs),
        metrics=metrics,
        kinds=kinds,
        passes_all=_passes_all(kinds, by_case) if repeats > 1 else {},
        unstable=_unstable(by_case),
        slices=_slices(by_case, kinds),
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def grouped(runs: Iterable[CaseRun]) -> dict[str, list[CaseRun]]:
    """The runs by their case, in order."""
    found: dict[str, list[CaseRun]] = defaultdict(list)
    for run in runs:
        found[run.case_id].append(run)
    return dict(found)


def kinds_of(runs: Sequence[CaseRun], scorers: Sequence[Scorer]) -> dict[str, str]:
    """By metric "share" or "mean"; one of which every case failed is a mean of zeros."""
    summaries = {name for scorer in scorers for name in scorer.summaries()}
    kinds = {metric: "mean" for scorer in scorers for metric in scorer.gives() if metric not in summaries}
    for run in runs:
        kinds |= {name: "share" for name, score in run.scores.items() if isinstance(score, bool)}
    return kinds


def score_of(run: CaseRun, metric: str) -> float:
    """A run's score; 0 for a failure."""
    return float(run.scores.get(metric, 0.0))


def _estimate(metric: str, kind: str, cases: Iterable[Sequence[CaseRun]]) -> Estimate:
    scores = [[score_of(run, metric) for run in runs] for runs in cases]
    if kind == "share":
        if all(len(set(some)) == 1 for some in scores):
            # Cases that are scored alike every time are as many observations as there are cases.
            found = share(sum(some[0] > 0 for some in scores), len(scores))
        else:
            found = clustered_share(_sums(scores))
    else:
        found = mean([sum(some) / len(some) for some in scores])
    assert found
    return found


def _sums(scores: Sequence[Sequence[float]]) -> ClusterSums:
    """A case's repeats are a cluster: they say less than as many cases."""
    pairs = [(float(len(some)), sum(some)) for some in scores]
    return ClusterSums(
        len(pairs),
        sum(n for n, _ in pairs),
        sum(k for _, k in pairs),
        sum(n * n for n, _ in pairs),
        sum(k * k for _, k in pairs),
        sum(n * k for n, k in pairs),
    )


def _bootstrapped(of: Any, cases: Sequence[Sequence[CaseRun]]) -> Estimate:
    """A metric of all cases together; its interval by drawing cases with replacement, the middle 95 %."""

    def value(chosen: Iterable[int]) -> float:
        return float(of([(run.answered, run.expected) for place in chosen for run in cases[place]]))

    rng = np.random.default_rng(SEED)
    n = len(cases)
    draws = [value(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    found = value(range(n))
    return Estimate(found, min(found, float(low)), max(found, float(high)), n)


def _passes_all(kinds: dict[str, str], by_case: dict[str, list[CaseRun]]) -> dict[str, Estimate]:
    found = {}
    for metric in (name for name, kind in kinds.items() if kind == "share"):
        every = sum(all(score_of(run, metric) > 0 for run in runs) for runs in by_case.values())
        made = share(every, len(by_case))
        assert made
        found[metric] = made
    return found


def _unstable(by_case: dict[str, list[CaseRun]]) -> list[str]:
    return [
        case_id
        for case_id, runs in by_case.items()
        if any((run.scores, run.failure is None) != (runs[0].scores, runs[0].failure is None) for run in runs)
    ]


def _slices(by_case: dict[str, list[CaseRun]], kinds: dict[str, str]) -> list[Slice]:
    cut: dict[tuple[str, str], list[list[CaseRun]]] = defaultdict(list)
    for runs in by_case.values():
        for name, value in runs[0].slices.items():
            cut[name, str(value)].append(runs)
    return [
        Slice(name, value, len(cases), {m: _estimate(m, kind, cases) for m, kind in kinds.items()})
        for (name, value), cases in sorted(cut.items())
    ]
