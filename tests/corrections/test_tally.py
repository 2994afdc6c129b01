"""What counts of what users said, and what becomes of it."""

import random
from dataclasses import replace

import pytest

from support.corrections import accepts, opinion, random_opinions
from trivium.domain.corrections import (
    Example,
    Opinion,
    Tally,
    Verdict,
    carried,
    outcome,
    reopened,
    tally,
)
from trivium.domain.sameness import input_hash, normalised, output_key, side_of


def _one(*opinions: Opinion) -> Tally:
    (found,) = tally(opinions).values()
    return found


def _labels(found: Tally) -> dict[str, int]:
    return {one.output["label"]: len(one.said) for one in found.rights}


def _verdict(found: Tally, label: str | None, at: float = 1e9) -> Verdict:
    output = None if label is None else {"label": label}
    return Verdict(found.input_hash, "drop" if label is None else "amend", output, "me", None, at)


def test_a_later_correction_of_a_subject_takes_the_place_of_their_own_earlier_one() -> None:
    assert _labels(_one(opinion("q", "a"), opinion("q", "b"))) == {"b": 1}
    early = opinion("q", "a", occurred_at=9.0)
    assert _labels(_one(early, opinion("q", "b", occurred_at=1.0))) == {"a": 1}
    assert _labels(_one(opinion("q", "a", "u-1"), opinion("q", "b", "u-2"))) == {"a": 1, "b": 1}


def test_what_was_corrected_or_refused_was_not_accepted() -> None:
    taken = accepts("q", "a")
    same = {"inference_id": taken.inference_id}
    assert _labels(_one(taken, opinion("q", "b", **same))) == {"b": 1}
    assert _labels(_one(replace(taken, occurred_at=1e6), opinion("q", "b", **same))) == {"b": 1}
    assert tally([taken, opinion("q", None, withdraws=True, **same)])[taken.input_hash].rights == ()


def test_to_refuse_another_answer_takes_back_nothing_but_the_same_one_does() -> None:
    assert _labels(_one(opinion("q", "b"), opinion("q", None, answered={"label": "a"}))) == {"b": 1}
    assert _labels(_one(opinion("q", "b"), opinion("q", None, withdraws=True))) == {"b": 1}
    assert _labels(_one(opinion("q", "b"), opinion("q", None, answered={"label": "b"}))) == {}
    found = _one(opinion("q", None, answered={"label": "b"}), opinion("q", "b"))
    assert (_labels(found), found.disputed) == ({"b": 1}, False)


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ([opinion("q", "a", "u-1"), opinion("q", "b", "u-2")], "disputed"),
        ([accepts("q", "a", "u-1"), opinion("q", "b", "u-2")], "disputed"),
        ([accepts("q", "a", "u-1"), opinion("q", None, "u-2", answered={"label": "a"})], "disputed"),
        ([opinion("q", None)], "rejected"),
        ([opinion("q", "a")], "too_few"),
    ],
)
def test_what_is_not_agreed_on_is_no_example(said: list[Opinion], becomes: str) -> None:
    assert outcome(_one(*said), None, min_agree=2) == becomes


def test_what_is_agreed_on_says_where_it_comes_from() -> None:
    said = [accepts("q", "a", "u-1"), accepts("Q ", "a", "u-2", variant="llm-v1/v3")]
    made = outcome(_one(*said), None, min_agree=2)
    assert isinstance(made, Example)
    assert (made.kind, made.subjects, made.output) == ("accepted", 2, {"label": "a"})
    assert made.feedback_ids == tuple(one.feedback_id for one in said)
    assert made.variants == ("edge-v1/v1", "llm-v1/v3")
    corrected = outcome(_one(*said, opinion("q", "a", "u-3")), None)
    assert isinstance(corrected, Example) and corrected.kind == "correction"


def test_a_verdict_decides_and_is_reopened_by_whoever_contradicts_it_later() -> None:
    found = _one(opinion("q", "a", "u-1"), opinion("q", "b", "u-2"))
    assert outcome(found, _verdict(found, None)) == "dropped"
    made = outcome(found, _verdict(found, "c"))
    assert isinstance(made, Example) and (made.kind, made.output) == ("reviewed", {"label": "c"})
    decided = _verdict(found, "a", at=max(one.received_at for one in found.opinions))
    assert not reopened(found, decided)
    later = opinion("q", "b", "u-3")
    assert reopened(_one(*found.opinions, later), decided)
    assert not reopened(_one(*found.opinions, replace(later, right={"label": "a"})), decided)
    assert not reopened(_one(*found.opinions, later), _verdict(found, None, at=0.0))
    refusal = opinion("q", None, "u-4", answered={"label": "a"})
    assert reopened(_one(*found.opinions, refusal), decided)


def test_of_an_earlier_example_a_verdict_decides() -> None:
    found = _one(opinion("q", "a"))
    before = outcome(found, None)
    assert isinstance(before, Example)
    assert carried(before, None) == before
    assert carried(before, _verdict(found, None)) == "dropped"
    assert carried(before, _verdict(found, "b")) == replace(before, output={"label": "b"}, kind="reviewed")


@pytest.mark.parametrize("seed", range(20))
def test_the_order_in_which_things_are_read_makes_no_difference(seed: int) -> None:
    rng = random.Random(seed)
    said = random_opinions(rng, 120)
    first = tally(said)
    rng.shuffle(said)
    assert tally(said) == first


def test_inputs_are_the_same_but_for_case_white_space_and_compatibility_forms() -> None:
    same = ["Straße  7", "STRASSE 7", " strasse\t7\n", "\N{FULLWIDTH LATIN SMALL LETTER S}trasse 7"]
    assert len({input_hash({"text": text}) for text in same}) == 1
    assert input_hash({"text": "strasse 8"}) != input_hash({"text": "strasse 7"})
    assert input_hash({"b": 1, "a": ["X"]}) == input_hash({"a": ["x"], "b": 1})
    assert input_hash({}, "K-1") != input_hash({}, "K-2")
    assert input_hash({"text": "q"}, "K-1") == input_hash({"text": "q"}, "K-2")


def test_what_the_trainer_takes_for_the_same_text_is_the_same_input() -> None:
    rng = random.Random(7)
    signs = [
        chr(code) for code in (*range(0x20, 0x250), *range(0x370, 0x400), 0x1E9E, 0xFB01, 0x3000, 0x212B)
    ]
    for _ in range(2_000):
        text = "".join(rng.choices(signs, k=5))
        for other in (text.upper(), text.lower(), text.casefold(), f" {text}  "):
            if " ".join(other.split()).casefold() == " ".join(text.split()).casefold():
                assert normalised(other) == normalised(text), (text, other)


def test_outputs_are_the_same_by_all_or_by_some_of_their_fields() -> None:
    assert output_key({"label": "a", "in_scope": 0.9}) != output_key({"label": "a"})
    assert output_key({"label": " a", "in_scope": 0.9}, ("label",)) == output_key({"label": "a"}, ("label",))
    assert output_key({"label": "A"}) != output_key({"label": "a"})


def test_a_side_is_kept_and_new_inputs_fall_by_their_hash() -> None:
    hashes = [input_hash({"text": str(n)}) for n in range(4_000)]
    sides = [side_of(one, 0.2, {}) for one in hashes]
    assert 0.17 < sides.count("eval") / len(sides) < 0.23
    kept = dict(zip(hashes, sides, strict=True))
    assert [side_of(one, 0.9, kept) for one in hashes] == sides
    assert {side_of(one, 0.0, {}) for one in hashes} == {"train"}
