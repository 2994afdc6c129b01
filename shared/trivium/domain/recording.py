"""What of inputs and outputs is recorded: a feature says how much, and its schemas what never."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

SENSITIVE = "x-sensitive"
REDACTED = "[redacted]"
_BRANCHES = ("anyOf", "oneOf", "allOf")


class Recording(BaseModel):
    """What is kept of an inference besides who answered, when, and what it cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payload: Literal["none", "hash", "sampled", "full"] = Field(
        "full",
        description="Of input and output: nothing; a hash of the input; both for a share of the inferences; "
        "both. A hash of a short input can be guessed.",
    )
    sample: float = Field(0.1, gt=0, le=1, description="The share that `sampled` keeps.")
    retention_days: int = Field(90, ge=1, le=3650, description="How long input and output are kept.")

    def keeps(self, inference_id: str) -> bool:
        """Whether input and output of an inference are kept; the same for an id each time."""
        if self.payload != "sampled":
            return self.payload == "full"
        digest = hashlib.sha256(inference_id.encode()).digest()
        return int.from_bytes(digest[:8]) < self.sample * 2**64


def hash_of(value: Any) -> str:
    """32 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def is_redacted(value: Any) -> bool:
    """Whether something of a value was taken out of it."""
    if isinstance(value, dict):
        return any(map(is_redacted, value.values()))
    if isinstance(value, list):
        return any(map(is_redacted, value))
    return bool(value == REDACTED)


class Redactor:
    """Takes out of values what their schema calls `x-sensitive: true`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self.active = SENSITIVE.encode() in orjson.dumps(schema)

    def __call__(self, value: Any) -> Any:
        """The value with `[redacted]` in the place of what is sensitive; the value itself is not changed."""
        return self._of(value, [self._root]) if self.active else value

    def _of(self, value: Any, schemas: list[dict[str, Any]]) -> Any:
        schemas = list(self._all(schemas))
        if any(schema.get(SENSITIVE) is True for schema in schemas):
            return REDACTED
        if isinstance(value, dict):
            return {name: self._of(item, _of_property(schemas, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._of(item, _of_item(schemas, place)) for place, item in enumerate(value)]
        return value

    def _all(self, schemas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The schemas that may hold for a value: those that they refer to, and all branches."""
        waiting, seen = list(schemas), set()
        while waiting:
            schema = waiting.pop()
            if not isinstance(schema, dict) or id(schema) in seen:
                continue
            seen.add(id(schema))
            yield schema
            for branch in _BRANCHES:
                waiting += schema.get(branch) or []
            waiting += [schema[name] for name in ("if", "then", "else") if name in schema]
            if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
                waiting.append(self._referred(reference))

    def _referred(self, reference: str) -> dict[str, Any]:
        found: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key, {}) if isinstance(found, dict) and part else found
        return found if isinstance(found, dict) else {}


def _of_property(schemas: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found = []
    for schema in schemas:
        properties = schema.get("properties") or {}
        found.append(properties[name] if name in properties else schema.get("additionalProperties"))
    return [one for one in found if isinstance(one, dict)]


def _of_item(schemas: list[dict[str, Any]], place: int) -> list[dict[str, Any]]:
    found = []
    for schema in schemas:
        prefix = schema.get("prefixItems") or []
        found.append(prefix[place] if place < len(prefix) else schema.get("items"))
    return [one for one in found if isinstance(one, dict)]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much of one feature's or route's inferences is recorded."""

    recording: Recording = field(default_factory=Recording)
    input: Redactor = field(default_factory=lambda: Redactor({}))
    output: Redactor = field(default_factory=lambda: Redactor({}))

    def of(self, inference_id: str, given: Any, output: Any) -> dict[str, Any]:
        """The columns `input`, `output` and `input_hash` as they are to be stored."""
        if self.recording.keeps(inference_id):
            return {"input": self.input(given), "output": self.output(output), "input_hash": None}
        hashed = None if self.recording.payload == "none" else hash_of(given)
        return {"input": None, "output": None, "input_hash": hashed}
