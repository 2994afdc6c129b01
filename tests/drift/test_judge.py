"""Quiet where nothing has changed, and loud where something was planted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.drifting import HIDDEN, TOPICS, Traffic, a_feature, profile
from trivium.domain.drift import ColumnReport
from trivium.drift.columns import Labels, Profile, Vectors
from trivium.drift.judge import Judge
from trivium.features import Feature

RATE, WINDOW = 0.05, 100


@pytest.fixture(scope="module")
def feature(root: Path) -> Feature:
    return a_feature(root)


@pytest.fixture(scope="module")
def judge(feature: Feature) -> Judge:
    return Judge(profile(feature, Traffic().draw(400, np.random.default_rng(1))), RATE)


def _found(judge: Judge, window: Profile) -> dict[str, ColumnReport]:
    return {column.name: column for column in judge.of(window).columns}


def _drifted(judge: Judge, window: Profile) -> set[str]:
    return {name for name, column in _found(judge, window).items() if column.drifted}


def _psi(reference: Profile, window: Profile) -> float:
    """What is usually done: the population stability index of the labels; over 0.10 is called drift."""
    shares = []
    for one in (reference, window):
        labels = one.columns["output.label"]
        assert isinstance(labels, Labels)
        counts = np.asarray([max(0.5, labels.values.count(f"queue-{topic}")) for topic in range(TOPICS)])
        shares.append(counts / counts.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def test_unchanged_traffic_stays_quiet_where_the_usual_rule_does_not(feature: Feature) -> None:
    alarms = naive = 0
    for seed in range(2):
        random = np.random.default_rng(seed)
        reference = profile(feature, Traffic().draw(400, random))
        judge = Judge(reference, RATE)
        for _ in range(12):
            window = profile(feature, Traffic().draw(50, random), reference)
            alarms += bool(_drifted(judge, window))
            naive += _psi(reference, window) > 0.10
    assert alarms <= 3, f"{alarms} of 24 windows"
    assert naive >= 12, f"the usual rule fired in {naive} of 24"


def _labels_of(made: Profile) -> Profile:
    """Of all columns the labels alone: the others take their time."""
    return replace(made, columns={"output.label": made.columns["output.label"]})


def test_a_few_busy_subjects_are_no_drift(feature: Feature) -> None:
    """Ten requests of one subject about one thing are worth about one."""
    alarms = row_by_row = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        reference = _labels_of(profile(feature, Traffic(requests=10).draw(400, random)))
        window = _labels_of(profile(feature, Traffic(requests=10).draw(WINDOW, random), reference))
        alarms += "output.label" in _drifted(Judge(reference, RATE), window)
        alone = [
            replace(one, groups=np.arange(len(one.groups), dtype=np.uint64)) for one in (reference, window)
        ]
        row_by_row += "output.label" in _drifted(Judge(alone[0], RATE), alone[1])
    assert alarms <= 2
    assert row_by_row >= 9


@pytest.mark.parametrize(
    ("changed", "columns"),
    [
        (Traffic(words=14), {"length"}),
        (Traffic(foreign=0.4), {"language", "words"}),
        (Traffic(rare=0.2), {"new_words", "words"}),
        (Traffic(topics=[5, *[1] * (TOPICS - 1)]), {"output.label", "embedding", "words"}),
        (Traffic(away=0.5), {"embedding"}),
        (Traffic(confidence=(5.0, 3.0)), {"confidence"}),
        (Traffic(override=0.6), {"override_rate"}),
        (Traffic(fallback=0.3), {"fallback_rate"}),
    ],
    ids=["length", "language", "new words", "topics", "meaning", "confidence", "overrides", "fallbacks"],
)
def test_what_was_planted_is_found(
    feature: Feature, judge: Judge, changed: Traffic, columns: set[str]
) -> None:
    window = profile(feature, changed.draw(200, np.random.default_rng(7)), judge.reference)
    assert columns <= _drifted(judge, window)


def test_texts_unlike_all_others_are_novel(feature: Feature, judge: Judge) -> None:
    strange = Traffic(center=np.random.default_rng(77).normal(size=(TOPICS, HIDDEN)).astype(np.float32))
    random = np.random.default_rng(9)
    some, others = Traffic().draw(160, random), strange.draw(40, random)
    window = profile(feature, (some[0] + others[0], np.concatenate([some[1], others[1]])), judge.reference)
    assert "novelty" in _drifted(judge, window)


def test_a_first_fallback_is_no_drift(feature: Feature) -> None:
    """A reference without one cannot tell by itself how many there may be."""
    random = np.random.default_rng(4)
    judge = Judge(profile(feature, Traffic(fallback=0.0).draw(400, random)), RATE)
    drawn, vectors = Traffic(fallback=0.0).draw(WINDOW, random)
    for count, drifted in ((1, False), (9, True)):
        broken = [replace(one, fell_back=True, reason="timeout") for one in drawn[:count]]
        found = _found(judge, profile(feature, (broken + drawn[count:], vectors), judge.reference))
        assert found["fallback_rate"].drifted is drifted, count


def test_a_reference_that_is_smaller_than_the_window_will_do(feature: Feature) -> None:
    random = np.random.default_rng(5)
    judge = Judge(profile(feature, Traffic().draw(200, random)), RATE)
    assert not _drifted(judge, profile(feature, Traffic().draw(350, random), judge.reference))
    assert "override_rate" in _drifted(
        judge, profile(feature, Traffic(override=0.5).draw(350, random), judge.reference)
    )


def test_the_same_window_gives_the_same_report(feature: Feature, judge: Judge) -> None:
    drawn = Traffic(topics=[3, *[1] * (TOPICS - 1)]).draw(150, np.random.default_rng(6))
    window = profile(feature, drawn, judge.reference)
    first = judge.of(window)
    assert Judge(judge.reference, RATE).of(window) == first
    for column in first.columns:
        assert column.drifted == (column.statistic > column.threshold) == (column.score > 1)


def test_what_cannot_be_compared_is_said(feature: Feature, judge: Judge) -> None:
    observations, vectors = Traffic().draw(120, np.random.default_rng(3))
    bare = [replace(one, input=None, overridden=None) for one in observations]
    found = judge.of(profile(feature, (bare, vectors), judge.reference))
    assert set(found.absent) == {"input", "override_rate"}
    assert found.absent["input"] == "no input of these inferences is kept"
    assert found.absent["override_rate"] == "0 values in the window, under 20"
    assert {column.name for column in found.columns} == {"output.label", "confidence", "fallback_rate"}
    known = judge.reference.columns
    assert isinstance(known["embedding"], Vectors)
    others = {**known, "embedding": replace(known["embedding"], model="m/2")}
    judge_of_another = Judge(replace(judge.reference, columns=others), RATE)
    window = profile(feature, (observations, vectors), judge.reference)
    assert "embedded by m/2, not m/1" in judge_of_another.of(window).absent["embedding"]
