"""Groups of what goes wrong: planted ones come first, whatever the order of the rows."""

import random
from typing import Any

import numpy as np
import pytest

from trivium.edge_cases.clusters import cut_of, group, nearest
from trivium.edge_cases.finding import EdgeCase, find, is_troubled
from trivium.edge_cases.texts import names, tf_idf
from trivium.store.edge_cases import Answer

TOPICS = {
    "transfer": "my bank transfer of {n} pounds has not arrived at the receiver",
    "card": "the cash machine swallowed my card number {n} this morning",
    "rate": "the exchange rate for {n} yen was worse than shown",
    "pin": "please tell me how to change the pin of card {n}",
}


def _answer(place: int, topic: str, **more: Any) -> Answer:
    values: dict[str, Any] = {
        "id": f"i-{place}",
        "input": {"text": TOPICS[topic].format(n=place)},
        "output": {"label": "general"},
        "subject_id": f"u-{place % 50}",
        "variant": "edge-v1",
        "confidence": 0.9,
        "fallback_reason": None,
        "judged": True,
        "overridden": False,
        "corrected": None,
    }
    return Answer(**{**values, **more})


@pytest.fixture
def planted() -> list[Answer]:
    """Transfers are always put right, cards half of the time, others hardly ever."""
    rng = random.Random(4)
    answers = []
    for place in range(400):
        topic = rng.choice(list(TOPICS))
        chance = {"transfer": 1.0, "card": 0.5}.get(topic, 0.02)
        wrong = rng.random() < chance
        right = {"label": topic} if wrong else None
        answers.append(_answer(place, topic, overridden=wrong, corrected=right))
    return answers


def _found(answers: list[Answer], top: int = 5) -> list[EdgeCase]:
    return find(answers, tf_idf([str(one.input["text"]) for one in answers]), unsure=0.5, top=top)


def test_what_is_put_right_most_comes_first_with_its_name_and_its_correction(planted: list[Answer]) -> None:
    first, second = _found(planted)[:2]
    assert "bank" in first.name
    assert first.rate.value == 1.0
    assert first.correction == f"general should be transfer: {first.wrong} of {first.wrong}"
    assert {example.text.partition(" pounds")[0].rpartition(" ")[0] for example in first.examples} == {
        "my bank transfer of"
    }
    assert "swallowed" in second.name or "machine" in second.name
    assert 0.3 < second.rate.value < 0.7
    assert second.rate.low < second.rate.value < second.rate.high
    transfers = sum("transfer" in str(one.input["text"]) for one in planted)
    assert first.frequency == transfers
    assert first.impact == pytest.approx(first.frequency * first.subjects)


def test_the_order_of_the_rows_changes_nothing(planted: list[Answer]) -> None:
    def key(found: list[EdgeCase]) -> list[tuple[Any, ...]]:
        return [(one.name, one.frequency, one.wrong, one.subjects, one.impact) for one in found]

    shuffled = planted[:]
    random.Random(9).shuffle(shuffled)
    assert key(_found(shuffled)) == key(_found(planted))


@pytest.mark.parametrize(
    ("more", "troubled"),
    [
        ({}, False),
        ({"overridden": True}, True),
        ({"judged": False}, False),
        ({"judged": False, "confidence": 0.4}, True),
        ({"judged": True, "confidence": 0.4}, False),  # unsure, and somebody took it
        ({"judged": False, "fallback_reason": "out_of_scope"}, True),
        ({"judged": False, "fallback_reason": "timeout"}, False),
    ],
)
def test_what_counts_as_trouble(more: dict[str, Any], troubled: bool) -> None:
    assert is_troubled(_answer(1, "card", **more), 0.5) is troubled


def test_of_little_or_nothing_no_group_is_made() -> None:
    assert _found([]) == []
    assert _found([_answer(1, "card", overridden=True), _answer(2, "card", overridden=True)]) == []


def test_words_of_every_text_name_nothing() -> None:
    groups = [["the card is lost", "the card is gone"], ["the rate is bad", "the rate is low"]]
    found = names(groups, [text for some in groups for text in some])
    assert found[0].startswith("card")
    assert found[1].startswith("rate")
    assert not any("the" in name.split(", ")[:1] for name in found)
    assert names([["123 !"]], ["123 !"]) == ["(no words)"]


def test_vectors_far_from_every_centre_are_about_none() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert nearest(vectors, vectors[:2], 0.3).tolist() == [0, 1, -1, -1]
    assert nearest(vectors, np.empty((0, 4), dtype=np.float32), 0.3).tolist() == [-1] * 4
    assert group(vectors[:1], 0.3).tolist() == [0]
    assert len(set(group(np.repeat(vectors, 3, axis=0), 0.3).tolist())) == 4
    assert cut_of(vectors) == pytest.approx(0.6)
