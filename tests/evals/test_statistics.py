"""Gates, paired tests and intervals of evaluations, against scipy and by simulation."""

import random
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from trivium.domain.estimate import Estimate
from trivium.domain.evaluation import check_gates, holm, mcnemar
from trivium.domain.manifest import Threshold
from trivium.evals.cases import Answered
from trivium.evals.comparison import Scored, differences, flips
from trivium.evals.evaluators.labels import Accuracy
from trivium.evals.runner import CaseRun
from trivium.evals.summary import _estimate, grouped, summarise


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (20, 20), (5, 40), (300, 200)])
def test_mcnemars_p_is_the_binomial_tests(gained: int, lost: int) -> None:
    known = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(known, rel=1e-9)


def test_holm_is_scipys_step_down() -> None:
    ps = [0.01, 0.04, 0.03, 0.5]
    assert holm(ps) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "low", "high", "passed", "clears"),
    [(0.9, 0.86, 0.94, True, True), (0.86, 0.8, 0.92, True, False), (0.8, 0.7, 0.9, False, False)],
)
def test_a_gate_is_met_by_the_estimate_and_cleared_by_its_interval(
    value: float, low: float, high: float, passed: bool, clears: bool
) -> None:
    (gate,) = check_gates({"accuracy": Estimate(value, low, high, 100)}, {"accuracy": Threshold(min=0.85)})
    assert (gate.passed, gate.clears) == (passed, clears)


def _pairs(right_before: list[bool], right_after: list[bool]) -> tuple[Any, Any]:
    def of(some: list[bool]) -> dict[str, Scored]:
        return {f"c-{n}": Scored({"accuracy": float(ok)}, {"label": n}, None) for n, ok in enumerate(some)}

    return of(right_before), of(right_after)


def test_a_paired_regression_is_found_where_two_means_would_not_show_it() -> None:
    before = [True] * 80 + [False] * 20
    after = [True] * 70 + [False] * 30
    was, now = _pairs(before, after)
    (one,) = differences(was, now, {"accuracy": "share"}, {})
    assert one.test == "McNemar, exact"
    assert one.regression
    assert one.value == pytest.approx(-0.1)
    assert one.low <= one.value <= one.high < 0
    unpaired = stats.fisher_exact([[80, 20], [70, 30]]).pvalue
    assert unpaired > 0.05
    runs = [_run(n, 0, "a" if ok else "b") for n, ok in enumerate(after)]
    found = flips(was, now, {"accuracy": "share"}, runs)
    assert len(found) == 10
    assert not any(flip.better for flip in found)
    assert found[0].expected == {"label": "a"}


def test_chance_is_no_regression_in_nineteen_of_twenty() -> None:
    rng = random.Random(5)
    alarms = 0
    for _ in range(60):
        was, now = _pairs([rng.random() < 0.8 for _ in range(80)], [rng.random() < 0.8 for _ in range(80)])
        (one,) = differences(was, now, {"accuracy": "share"}, {})
        alarms += one.significant
    assert alarms <= 7  # of 60 at 5 %: 8 or more have a chance under 1 %


@pytest.mark.parametrize("cases", [1, 2, 5, 15])
def test_few_cases_are_no_proof_of_a_difference_of_means(cases: int) -> None:
    rng = random.Random(cases)
    alarms = 0
    for _ in range(100):
        was, now = (
            {str(n): Scored({"rouge_l": rng.random()}, None, None) for n in range(cases)} for _ in "ab"
        )
        (one,) = differences(was, now, {"rouge_l": "mean"}, {})
        alarms += one.significant
    assert alarms <= 11  # of 100 at 5 %: 12 or more have a chance under 1 %


def test_a_bootstraps_p_is_near_that_of_students_paired_test() -> None:
    rng = random.Random(3)
    before = [rng.gauss(0, 1) for _ in range(60)]
    after = [one + rng.gauss(0.25, 1) for one in before]
    was, now = (
        {str(n): Scored({"m": value}, None, None) for n, value in enumerate(some)} for some in (before, after)
    )
    (one,) = differences(was, now, {"m": "mean"}, {})
    assert one.p == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=0.2)


def test_of_a_mean_the_gate_says_which_way_is_worse() -> None:
    rng = random.Random(2)
    was = {f"c-{n}": Scored({"seconds": rng.random()}, None, None) for n in range(50)}
    now = {name: Scored({"seconds": one.scores["seconds"] + 0.1}, None, None) for name, one in was.items()}
    (better,) = differences(was, now, {"seconds": "mean"}, {})
    (worse,) = differences(was, now, {"seconds": "mean"}, {"seconds": Threshold(max=1)})
    assert (better.test, better.significant, better.regression) == ("paired bootstrap", True, False)
    assert worse.regression


def _run(case: int, repeat: int, label: str | None, **slices: str) -> CaseRun:
    answered = None if label is None else Answered({"label": label}, None, None, 5.0, 0.001)
    scores: dict[str, bool | float] = {} if label is None else {"accuracy": label == "a"}
    failure = "timeout" if label is None else None
    cost_usd = 0.001 if answered else 0.0
    return CaseRun(
        f"c-{case}", repeat, {}, {"label": "a"}, dict(slices), answered, scores, failure, 5.0, cost_usd
    )


def test_failures_are_wrong_answers_and_told_apart() -> None:
    runs = [_run(n, 0, label) for n, label in enumerate(["a"] * 6 + ["b", "b", None, None])]
    made = summarise(runs, [Accuracy("label")], 1)
    assert (made.metrics["accuracy"].value, made.failures, made.cases) == (0.6, 2, 10)
    # One label is expected: precision 6/8, recall 6/10.
    assert made.metrics["macro_f1"].value == pytest.approx(2 * 6 / (8 - 2 + 10))
    assert made.cost_usd == pytest.approx(0.008)
    assert made.passes_all == {}


def test_repeats_of_a_case_say_less_than_as_many_cases() -> None:
    runs = [_run(n, repeat, "a" if n < 12 else "b") for n in range(20) for repeat in range(5)]
    repeated = summarise(runs, [Accuracy("label")], 5).metrics["accuracy"]
    once = summarise([run for run in runs if not run.repeat], [Accuracy("label")], 1).metrics["accuracy"]
    assert repeated.value == once.value
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize("right", [0.7, 0.95])
@pytest.mark.parametrize("repeats", [1, 5])
def test_nineteen_of_twenty_intervals_hold_the_share(right: float, repeats: int) -> None:
    rng = random.Random(9)
    held = 0
    for _ in range(400):
        runs = []
        for case in range(20):
            label = "a" if rng.random() < right else "b"
            runs += [_run(case, repeat, label) for repeat in range(repeats)]
        found = _estimate("accuracy", "share", grouped(runs).values())
        held += found.low <= right <= found.high
    assert held >= 360  # a share of 0.95 less four standard errors, and what a discrete count may miss


def test_nineteen_of_twenty_intervals_hold_the_mean() -> None:
    rng = random.Random(8)
    held = 0
    for _ in range(400):
        runs = [replace(_run(n, 0, "a"), scores={"m": rng.random()}) for n in range(30)]
        found = _estimate("m", "mean", grouped(runs).values())
        held += found.low <= 0.5 <= found.high
    assert held >= 364


def test_what_failed_has_cost_its_money() -> None:
    failed = replace(_run(1, 0, None), latency_ms=90.0, cost_usd=0.25)
    made = summarise([replace(_run(0, 0, "a"), cost_usd=0.5), failed], [Accuracy("label")], 1)
    assert made.cost_usd == pytest.approx(0.75)
    assert made.p99_ms
    assert made.p99_ms.value == 5.0
    unknown = summarise([replace(failed, cost_usd=None)], [Accuracy("label")], 1)
    assert unknown.cost_usd is None


def test_what_changes_between_repeats_is_named_and_fails_pass_k() -> None:
    labels = {0: "aaa", 1: "aab", 2: "bbb", 3: "a-a"}
    runs = [
        _run(case, repeat, None if label == "-" else label)
        for case, some in labels.items()
        for repeat, label in enumerate(some)
    ]
    made = summarise(runs, [Accuracy("label")], 3)
    assert made.unstable == ["c-1", "c-3"]
    assert made.passes_all["accuracy"].value == 0.25
    assert made.metrics["accuracy"].value == pytest.approx(7 / 12)


def test_slices_are_scored_apart() -> None:
    runs = [_run(n, 0, "a" if n < 3 else "b", language="en" if n < 4 else "de") for n in range(8)]
    made = summarise(runs, [Accuracy("label")], 1)
    found = {(s.name, s.value): (s.cases, s.metrics["accuracy"].value) for s in made.slices}
    assert found == {("language", "de"): (4, 0.0), ("language", "en"): (4, 0.75)}
