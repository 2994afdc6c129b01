"""What of a line is an entity, for each way to compute."""

import json
from typing import Any

import pytest

from support.workers import make_features
from trivium.domain.variants import Compute, Neighbours, PrecomputedVariant
from trivium.errors import DatasetError
from trivium.features import Feature, find_feature
from trivium.precompute.records import MAX_DEPTH, MAX_KEY, Checker
from trivium.store.archive import input_hash


@pytest.fixture(scope="module")
def feature(tmp_path_factory: pytest.TempPathFactory) -> Feature:
    return find_feature(make_features(tmp_path_factory.mktemp("features")), "ticket-triage")


def _checker(feature: Feature, **options: Any) -> Checker:
    return Checker(feature, PrecomputedVariant(pattern="precomputed", archive="messages", **options))


def _told(checker: Checker, record: Any) -> str:
    with pytest.raises(DatasetError) as raised:
        checker.parse(json.dumps(record).encode())
    return raised.value.detail


VARIANTS = Compute(variants=["edge-v1"])
TEMPLATE = Compute(template={"label": {"$input": "text"}})
NEIGHBOURS = Compute(neighbours=Neighbours(model="m/1", text_field="body"))


def test_what_is_computed_by_variants_is_cut_to_the_input_and_checked_against_it(feature: Feature) -> None:
    checker = _checker(feature, compute=VARIANTS)
    assert checker.check({"id": "1", "text": "x", "more": 1}) == ("1", {"text": "x"})
    assert "input.text" in _told(checker, {"id": "1", "text": " "})


def test_what_is_filled_into_a_template_keeps_all_its_fields(feature: Feature) -> None:
    checker = _checker(feature, compute=TEMPLATE)
    assert checker.check({"id": "1", "label": "x", "more": [1]}) == ("1", {"label": "x", "more": [1]})


@pytest.mark.parametrize("body", [None, "", "  \n", 7, ["x"]])
def test_what_is_compared_by_its_text_needs_one(feature: Feature, body: Any) -> None:
    checker = _checker(feature, compute=NEIGHBOURS)
    assert "body: " in _told(checker, {"id": "1", "body": body})
    assert "is no text" in _told(checker, {"id": "1", "text": "elsewhere"})


def test_a_text_is_enough_to_be_compared(feature: Feature) -> None:
    checker = _checker(feature, compute=NEIGHBOURS)
    assert checker.check({"id": "1", "body": "x", "more": 1}) == ("1", {"body": "x", "more": 1})


def test_the_key_is_of_the_field_that_the_manifest_names(feature: Feature) -> None:
    checker = _checker(feature, compute=TEMPLATE, key_field="ticket")
    assert checker.check({"ticket": "T-1", "id": "5"}) == ("T-1", {"id": "5"})
    assert _told(checker, {"id": "5"}).startswith("ticket: null is no entity_key")


@pytest.mark.parametrize(
    ("key", "taken"),
    [("k" * MAX_KEY, "k" * MAX_KEY), (0, "0"), (-7, "-7"), ("ä 🙂", "ä 🙂"), (10**15, f"{10**15}")],
)
def test_texts_and_whole_numbers_are_keys(feature: Feature, key: Any, taken: str) -> None:
    assert _checker(feature, compute=TEMPLATE).check({"id": key, "text": "x"})[0] == taken


@pytest.mark.parametrize("key", [None, "", True, 1.5, [1], {"a": 1}, "k" * (MAX_KEY + 1)])
def test_nothing_else_is_a_key_and_a_long_one_is_not_told_whole(feature: Feature, key: Any) -> None:
    told = _told(_checker(feature, compute=TEMPLATE), {"id": key, "text": "x"})
    assert told.startswith("id: ") and "is no entity_key" in told
    assert len(told) < 200


@pytest.mark.parametrize(
    "record",
    [{"a": "\0"}, {"\0": 1}, {"a": [{"b": ["x", "\0"]}]}, {"a": {"b\0": 1}}],
    ids=["value", "name", "deep value", "deep name"],
)
def test_a_null_character_is_told_wherever_it_is(feature: Feature, record: dict[str, Any]) -> None:
    assert "null character" in _told(_checker(feature, compute=TEMPLATE), {"id": "1", **record})


@pytest.mark.parametrize(
    "compute", [VARIANTS, TEMPLATE, NEIGHBOURS], ids=["variants", "template", "neighbours"]
)
@pytest.mark.parametrize("levels", [100, 254, 300, 700, 1_000])
@pytest.mark.parametrize("name", ["text", "body", "id"])
def test_what_is_nested_too_deep_to_be_stored_is_a_bad_line_and_no_crash(
    feature: Feature, compute: Compute, levels: int, name: str
) -> None:
    record = {"id": '"1"', "text": '"x"', "body": '"x"', name: "[" * levels + "]" * levels}
    line = "{" + ", ".join(f'"{field}": {value}' for field, value in record.items()) + "}"
    with pytest.raises(DatasetError, match="nested deeper than 100 levels"):
        _checker(feature, compute=compute).parse(line.encode())


def test_what_is_nested_as_deep_as_may_be_is_stored(feature: Feature) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    _, record = _checker(feature, compute=TEMPLATE).check({"id": "1", "a": deep})
    assert input_hash(record)
