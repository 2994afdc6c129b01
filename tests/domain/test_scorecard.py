"""Verdicts of the four metrics."""

from dataclasses import replace

import pytest

from trivium.domain.estimate import ClusterSums, Estimate
from trivium.domain.manifest import RolloutGates
from trivium.domain.scorecard import ArmOutcomes, Judgement, Metrics, Verdict, judge, metrics_of

GATES = RolloutGates()


def _at(value: float, half: float, n: int = 1000) -> Estimate:
    return Estimate(value, value - half, value + half, n)


GOOD = Metrics(
    subjects=1000,
    requests=5000,
    judged=800,
    adoption=_at(0.5, 0.03),
    override_rate=_at(0.2, 0.03),
    p50_ms=_at(100, 5),
    p99_ms=_at(900, 50),
    error_rate=_at(0.005, 0.002),
)


def _judged(**changes: object) -> Judgement:
    return judge(replace(GOOD, **changes), GATES, 200)  # type: ignore[arg-type]


def _of(judgement: Judgement, metric: str) -> Verdict:
    (found,) = [verdict for verdict in judgement.verdicts if verdict.metric == metric]
    return found


def test_with_every_gate_met_an_advance_is_supported() -> None:
    judgement = _judged()
    assert judgement.supports == "advance"
    assert {verdict.says for verdict in judgement.verdicts} == {"met"}


@pytest.mark.parametrize(
    ("change", "metric", "says", "supports", "why"),
    [
        ({"adoption": _at(0.10, 0.02)}, "adoption", "broken", "hold", "hard to find or not compelling"),
        ({"adoption": _at(0.14, 0.03)}, "adoption", "undecided", "hold", "hard to find"),
        ({"adoption": _at(0.16, 0.03)}, "adoption", "undecided", "advance", "by the estimate"),
        ({"override_rate": _at(0.5, 0.05)}, "override_rate", "broken", "roll_back", "not good enough"),
        ({"override_rate": _at(0.05, 0.02)}, "override_rate", "check", "advance", "measured wrongly"),
        ({"p99_ms": _at(5000, 200)}, "p99_ms", "broken", "roll_back", "go async or faster"),
        ({"p99_ms": _at(4100, 200)}, "p99_ms", "undecided", "hold", "go async or faster"),
        ({"error_rate": _at(0.05, 0.01)}, "error_rate", "broken", "roll_back", "not ready"),
    ],
)
def test_each_metric_has_its_verdict(
    change: dict[str, Estimate], metric: str, says: str, supports: str, why: str
) -> None:
    judgement = _judged(**change)
    verdict = _of(judgement, metric)
    assert (verdict.says, judgement.supports) == (says, supports)
    assert why in verdict.why
    if supports != "advance":
        assert any(metric in told for told in judgement.why)


@pytest.mark.parametrize("subjects", [0, 199])
def test_too_few_subjects_are_never_green(subjects: int) -> None:
    judgement = _judged(subjects=subjects)
    assert judgement.supports == "hold"
    assert {verdict.says for verdict in judgement.verdicts} == {"not enough data"}


def test_hardly_any_feedback_says_nothing_of_overrides() -> None:
    judgement = _judged(judged=29)
    assert (_of(judgement, "override_rate").says, judgement.supports) == ("not enough data", "hold")
    assert _of(_judged(override_rate=None, judged=0), "override_rate").estimate is None


def test_metrics_are_those_of_the_subjects() -> None:
    outcomes = ArmOutcomes(
        subjects=4,
        requests=10,
        errors=ClusterSums(4, 10, 1, 30, 1, 3),
        slow=ClusterSums(4, 10, 0, 30, 0, 0),
        overrides=ClusterSums(2, 4, 2, 8, 4, 4),
        interacted=2,
    )
    made = metrics_of(outcomes, None, None)
    assert made.adoption
    assert made.override_rate
    assert made.error_rate
    found = (made.adoption.value, made.override_rate.value, made.error_rate.value, made.judged)
    assert found == (0.5, 0.5, 0.1, 4)
