"""How far an output is from another, and where nobody can say."""

import random
from typing import Any

import pytest

from trivium.edit_distance import MOST_CHARS, edit_distance


@pytest.mark.parametrize(
    ("answered", "given", "distance"),
    [
        ({"label": "a"}, {"label": "a"}, 0.0),
        ({}, {}, 0.0),
        ({"label": "abcd"}, {"label": "abcx"}, 1 / 4),
        ({"label": "abcd"}, {"label": "xabcd"}, 1 / 5),
        ({"label": "abc"}, {"label": "xyz"}, 1.0),
        ({"label": "abc"}, {}, 1.0),
        ({"text": "0123456789", "tag": "a"}, {"text": "0123456789", "tag": "b"}, 1 / 11),
        ({"score": 12}, {"score": 13}, 1 / 2),
        ({"list": [1, 2]}, {"list": [1, 3]}, 1 / 5),
        ({"of": {"b": 1, "a": 2}}, {"of": {"a": 2, "b": 1}}, 0.0),
        ({"v": "12"}, {"v": 12}, 2 / 4),  # the JSON of one is "12" in quotes
        ({"t": "näive"}, {"t": "naive"}, 1 / 5),
    ],
)
def test_properties_are_compared_by_text_or_by_canonical_json(
    answered: dict[str, Any], given: dict[str, Any], distance: float
) -> None:
    assert edit_distance(answered, given) == pytest.approx(distance)


def test_it_is_a_share_the_same_both_ways_and_0_only_for_the_same() -> None:
    rng = random.Random(4)
    for _ in range(200):
        one, other = ({"t": "".join(rng.choices("abc ", k=rng.randrange(12)))} for _ in range(2))
        there, back = edit_distance(one, other), edit_distance(other, one)
        assert there == back
        assert there is not None and 0 <= there <= 1
        assert (there == 0) == (one == other)


@pytest.mark.parametrize("answered", [None, {"a": "[redacted]"}, {"a": [{"b": "[redacted]"}]}])
def test_of_what_was_not_kept_whole_nothing_is_known(answered: dict[str, Any] | None) -> None:
    assert edit_distance(answered, {"a": "x"}) is None


def test_of_a_very_long_text_the_middle_that_differs_is_compared() -> None:
    long = "abcdefghij" * 50_000
    assert edit_distance({"t": long}, {"t": long[:200_000] + "X" + long[200_001:]}) == 1 / len(long)
    assert edit_distance({"t": long}, {"t": long + "more"}) == pytest.approx(4 / (len(long) + 4))
    # Beyond what is compared, all counts as changed.
    one, other = "ab" * MOST_CHARS, "cd" + "ab" * (MOST_CHARS - 2) + "cd"
    assert edit_distance({"t": one}, {"t": other}) == pytest.approx(0.5, abs=0.01)
