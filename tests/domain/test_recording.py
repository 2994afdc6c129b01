"""What of a payload is kept, and what never is."""

from typing import Any

import pytest

from trivium.domain.recording import REDACTED, Keeping, Recording, Redactor

SECRET = {"type": "string", "x-sensitive": True}
OPEN: dict[str, Any] = {"additionalProperties": SECRET, "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("schema", "value", "kept"),
    [
        ({"properties": {"a": SECRET}}, {"a": "x", "b": "y"}, {"a": REDACTED, "b": "y"}),
        ({"properties": {"a": {"properties": {"b": SECRET}}}}, {"a": {"b": 1}}, {"a": {"b": REDACTED}}),
        ({"properties": {"a": {"items": SECRET}}}, {"a": ["x", "y"]}, {"a": [REDACTED, REDACTED]}),
        ({"properties": {"a": {"prefixItems": [SECRET]}}}, {"a": ["x", "y"]}, {"a": [REDACTED, "y"]}),
        ({"$defs": {"s": SECRET}, "properties": {"a": {"$ref": "#/$defs/s"}}}, {"a": "x"}, {"a": REDACTED}),
        ({"properties": {"a": {"anyOf": [{"type": "null"}, SECRET]}}}, {"a": "x"}, {"a": REDACTED}),
        ({"allOf": [{"properties": {"a": SECRET}}]}, {"a": "x"}, {"a": REDACTED}),
        (
            {"additionalProperties": SECRET, "properties": {"a": {}}},
            {"a": 1, "b": 2},
            {"a": 1, "b": REDACTED},
        ),
        ({"properties": {"a": {"x-sensitive": True}}}, {"a": {"b": [1]}}, {"a": REDACTED}),
        ({"properties": {"a": {"x-sensitive": False}}}, {"a": 1}, {"a": 1}),
    ],
)
def test_what_a_schema_calls_sensitive_is_taken_out(schema: dict[str, Any], value: Any, kept: Any) -> None:
    before = repr(value)
    assert Redactor(schema)(value) == kept
    assert repr(value) == before


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"properties": {"child": {"$ref": "#"}, "name": SECRET}}
    value = {"child": {"child": {"name": "x"}}}
    assert Redactor(schema)(value) == {"child": {"child": {"name": REDACTED}}}


def test_each_policy_keeps_what_it_says() -> None:
    given, output = {"text": "hi"}, {"label": "x"}
    full = Keeping().of("id", given, output)
    assert full == {"input": given, "output": output, "input_hash": None}
    hashed = Keeping(Recording(payload="hash")).of("id", given, output)
    assert (hashed["input"], hashed["output"], len(hashed["input_hash"])) == (None, None, 32)
    nothing = Keeping(Recording(payload="none")).of("id", given, output)
    assert nothing == {"input": None, "output": None, "input_hash": None}


def test_a_sample_is_the_same_each_time_and_of_its_size() -> None:
    recording = Recording(payload="sampled", sample=0.2)
    kept = [recording.keeps(f"id-{n}") for n in range(5_000)]
    assert kept == [recording.keeps(f"id-{n}") for n in range(5_000)]
    assert 0.177 < sum(kept) / 5_000 < 0.223  # 4 standard errors about 0.2
