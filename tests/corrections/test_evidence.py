"""From the database to opinions: which answers and words may be learnt from, on both dialects."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.corrections import say, store_answer, write_sort
from trivium.corrections.evidence import Evidence, gather
from trivium.corrections.review import queue
from trivium.domain.corrections import Verdict
from trivium.domain.feedback import Kind
from trivium.domain.inference import Arm, Attempt, Question, ServedBy, StepAnswer
from trivium.features import Feature
from trivium.store.corrections import CorrectionRepository
from trivium.store.engine import Database
from trivium.store.retention import payloads
from trivium.store.sweeps import Sweeper

STORED = ServedBy("stored-v1", "precomputed", "stored-v1", "v1")
STATIC = ServedBy("static", "static")


@pytest.fixture
def feature(tmp_path: Path) -> Feature:
    return write_sort(tmp_path / "features")


async def _gathered(database: Database, feature: Feature, since: float = 0.0) -> Evidence:
    return await gather(feature, CorrectionRepository(database), since)


def _labels(found: Evidence) -> dict[str, list[str]]:
    return {
        str(one.input["text"]): sorted(right.output["label"] for right in one.rights)
        for one in found.tallies.values()
    }


def _tried(outcome: str) -> list[Attempt]:
    return [Attempt(STORED, "stored", outcome, 1.0)]


@pytest.mark.parametrize(
    "answer",
    [
        {"degraded": True, "fallback_reason": "timeout"},
        {"arm": Arm.CONTROL, "served_by": STATIC},
        {"arm": Arm.CONTROL},
        {"served_by": STATIC, "degraded": True},
        {"status": "generating"},
        {"status": "failed"},
        {"status": "left"},
        {"served_by": STORED, "attempts": _tried("result_missing")},
    ],
    ids=[
        "degraded",
        "control",
        "control-by-a-variant",
        "static",
        "generating",
        "failed",
        "left",
        "settled-late",
    ],
)
async def test_only_what_the_model_answered_can_be_accepted_but_anything_can_be_corrected(
    database: Database, feature: Feature, answer: dict[str, Any]
) -> None:
    await say(database, await store_answer(database, "taken", "a", **answer), Kind.ACCEPTED)
    await say(database, await store_answer(database, "righted", "a", **answer), Kind.CORRECTION, "b")
    found = await _gathered(database, feature)
    assert _labels(found) == {"righted": ["b"]}
    assert found.left_out == {"accepted, but not the model's answer": 1}


async def test_what_the_model_answered_can_be_accepted(database: Database, feature: Feature) -> None:
    for text, changes in (
        ("plain", {}),
        ("stored", {"served_by": STORED, "attempts": _tried("ok")}),
        ("kept for the same question", {"cached": True}),
    ):
        await say(database, await store_answer(database, text, "a", **changes), Kind.ACCEPTED)
    assert _labels(await _gathered(database, feature)) == {
        "plain": ["a"],
        "stored": ["a"],
        "kept for the same question": ["a"],
    }


async def test_what_was_not_kept_whole_or_is_no_longer_valid_teaches_nothing(
    database: Database, feature: Feature
) -> None:
    gone = await store_answer(database, "not kept", "a", kept=False)
    await say(database, gone, Kind.CORRECTION, "b")
    secret = Question({"text": "redacted", "secret": "[redacted]"})
    await say(database, await store_answer(database, "", "a", question=secret), Kind.CORRECTION, "b")
    odd = Question({"words": "of another schema"})
    await say(database, await store_answer(database, "", "a", question=odd), Kind.CORRECTION, "b")
    empty = await store_answer(database, "corrected to nothing", "a")
    await say(database, empty, Kind.ACCEPTED)
    await say(database, empty, Kind.CORRECTION, "")
    await say(database, await store_answer(database, "only shown", "a"), Kind.SHOWN)
    found = await _gathered(database, feature)
    assert _labels(found) == {"corrected to nothing": []}
    assert found.left_out == Counter({"redacted": 1, "input no longer valid": 1, "output no longer valid": 1})


async def test_feedback_before_its_inference_and_of_other_features_is_no_evidence(
    database: Database, feature: Feature
) -> None:
    await say(database, "unknown", Kind.CORRECTION, "b")
    await say(database, await store_answer(database, "q", "a", feature="else"), Kind.CORRECTION, "b")
    assert (await _gathered(database, feature)).tallies == {}


async def test_every_judged_answer_is_read_once_over_many_windows(
    database: Database, feature: Feature
) -> None:
    now = time.time()
    ids = [
        # Many at one moment, so that a window ends among them.
        await store_answer(database, f"q {n}", "a", created_at=now + n // 4, subject_id=f"u-{n}")
        for n in range(23)
    ]
    for n, inference_id in enumerate(ids):
        if n % 3:
            await say(database, inference_id, Kind.CORRECTION, "b")
            await say(database, inference_id, Kind.THUMBS_DOWN)
    repository = CorrectionRepository(database)
    for window in (1, 2, 3, 5, 1_000):
        read = [one async for one in repository.judged("sort", window=window)]
        assert [one.id for one in read] == [one for n, one in enumerate(ids) if n % 3]
        assert all([said.kind for said in one.said] == [Kind.CORRECTION, Kind.THUMBS_DOWN] for one in read)
    since = now + 3
    assert [one.id async for one in repository.judged("sort", since)] == [
        one for n, one in enumerate(ids) if n % 3 and n >= 12
    ]


async def test_what_retention_forgets_is_evidence_no_more(database: Database, feature: Feature) -> None:
    old = time.time() - 10 * 86_400
    await say(database, await store_answer(database, "old", "a", created_at=old), Kind.CORRECTION, "b")
    await say(database, await store_answer(database, "new", "a"), Kind.CORRECTION, "b")
    await Sweeper(database).all(payloads("sort", time.time() - 5 * 86_400))
    assert _labels(await _gathered(database, feature)) == {"new": ["b"]}


async def test_verdicts_are_stored_and_replaced(database: Database, feature: Feature) -> None:
    repository = CorrectionRepository(database)
    first = Verdict("0" * 32, "amend", {"label": "c"}, "ann", None, 5.0)
    await repository.decide("sort", first)
    await repository.decide("else", first)
    assert await repository.verdicts("sort") == {first.input_hash: first}
    second = Verdict("0" * 32, "drop", None, "bob", "spam", 6.0)
    await repository.decide("sort", second)
    assert await repository.verdicts("sort") == {first.input_hash: second}
    assert await repository.verdicts("else") == {first.input_hash: first}


async def test_a_contradiction_queues_an_input_again(database: Database, feature: Feature) -> None:
    for subject, label in (("u-1", "b"), ("u-2", "c")):
        answer = StepAnswer({"label": "a", "in_scope": 0.9})
        made = await store_answer(database, "q", "a", subject_id=subject, answer=answer)
        await say(database, made, Kind.CORRECTION, label)
    repository = CorrectionRepository(database)
    found = await _gathered(database, feature)
    (queued,) = queue(feature, found, {})
    told = queued.as_object()
    assert [(one["output"], one["subjects"]) for one in told["values"]] == [
        ({"label": "c"}, 1),
        ({"label": "b"}, 1),
    ]
    assert told["answered"] == [{"output": {"label": "a", "in_scope": 0.9}, "variant": "edge-v1/v1"}]
    verdict = Verdict(queued.tally.input_hash, "accept", {"label": "b"}, "me", None, time.time())
    await repository.decide("sort", verdict)
    assert queue(feature, found, await repository.verdicts("sort")) == []
    later = await store_answer(database, "Q", "b", subject_id="u-3")
    await say(database, later, Kind.CORRECTION, "c", received_at=time.time() + 1)
    (again,) = queue(feature, await _gathered(database, feature), await repository.verdicts("sort"))
    assert again.verdict == verdict
