"""What makes a line of a source an entity of a feature."""

from dataclasses import dataclass
from typing import Any

import orjson

from trivium.domain.variants import PrecomputedVariant
from trivium.errors import DatasetError, InvalidInput
from trivium.features import Feature

Record = dict[str, Any]
MAX_KEY = 512
# What is nested deeper cannot be written as JSON again.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks records against what a variant computes from."""

    feature: Feature
    spec: PrecomputedVariant

    def parse(self, line: bytes) -> tuple[str, Record]:
        """The entity_key and the record of a JSON line; raises DatasetError that says what is wrong."""
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DatasetError(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DatasetError(f"a {type(record).__name__}, not an object")
        return self.check(record)

    def check(self, record: Record) -> tuple[str, Record]:
        """The entity_key, and what the variant reads of the record; raises DatasetError."""
        if _deeper(record, MAX_DEPTH):
            raise DatasetError(f"is nested deeper than {MAX_DEPTH} levels")
        field = self.spec.key_field
        key = record.pop(field, None)
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise DatasetError(
                f"{field}: {_shown(key)} is no entity_key: a string of 1 to {MAX_KEY} characters"
            )
        compute = self.spec.compute
        if compute.variants:
            record = self.feature.record_of(record)
            try:
                self.feature.check_input(record)
            except InvalidInput as error:
                raise DatasetError(error.detail[:500]) from error
        elif compute.neighbours:
            text = record.get(compute.neighbours.text_field)
            if not isinstance(text, str) or not text.strip():
                raise DatasetError(f"{compute.neighbours.text_field}: {_shown(text)} is no text")
        if "\0" in key or _has_null(record):
            raise DatasetError("holds a null character (\\u0000)")
        return key, record


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not levels or any(_deeper(one, levels - 1) for one in inner if isinstance(one, dict | list))


def _has_null(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_null(k) or _has_null(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_null, value))


def _shown(value: Any) -> str:
    text = "null" if value is None else orjson.dumps(value, default=str).decode()
    return text if len(text) <= 80 else f"{text[:80]}…"
