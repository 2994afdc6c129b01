"""Requests made from a service's OpenAPI document, right and wrong ones, and what the answers show."""

import copy
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
"""Of each operation, besides those that cover its schema; `make fuzz` takes more."""
LINES = "application/x-ndjson"


@schemathesis.serializer(LINES)
def _lines(context: Any, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else orjson.dumps(value)


@dataclass(slots=True)
class Report:
    """What was asked, and what was wrong."""

    answers: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    """One request that shows it, by operation, check and message."""

    @property
    def cases(self) -> int:
        """Requests in all."""
        return self.answers.total()

    def statuses(self, operation: str) -> set[int | None]:
        """What an operation answered."""
        return {status for label, status in self.answers if label == operation}

    def __str__(self) -> str:
        told = "\n\n".join(f"{what}\n  {how}" for what, how in self.failures.items())
        return f"{self.cases} requests, {len(self.failures)} kinds of failures\n{told}"


def narrowed(document: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The document with values that mean something for parameters and fields of some names.

    Without them nearly all paths would lead nowhere. What the schema allows otherwise is still generated.
    """
    made = copy.deepcopy(dict(document))
    _narrow(made, known)
    return made


def attack(
    document: Mapping[str, Any],
    url: str,
    key: str,
    *,
    operations: Sequence[dict[str, Any]] = (),
    examples: int = EXAMPLES,
) -> Report:
    """Sends generated requests and checks every answer, by all of schemathesis's checks."""
    chosen = {
        "seed": 7,
        "headers": {"Authorization": f"Bearer {key}"},
        "base-url": url,
        "continue-on-failure": True,
        "request-timeout": 30,
        "generation": {
            "max-examples": examples,
            "deterministic": True,
            "no-shrink": True,
            "database": "none",
        },
        "phases": {"stateful": {"enabled": False}},
        "operations": list(operations),
    }
    report = Report()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the generator's own
        schema = schemathesis.openapi.from_dict(dict(document), config=SchemathesisConfig.from_dict(chosen))
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                _read(report, event.recorder)
            elif isinstance(event, events.NonFatalError):
                report.failures[f"{event.label}: it could not be asked"] = str(event.info)
            elif isinstance(event, events.FatalError):
                raise event.exception
    return report


def lenient(path: str, check: str, *statuses: str) -> dict[str, Any]:
    """Statuses that pass a check for the operations of a path (a regular expression), besides the usual."""
    usual = _USUAL[check]
    return {"include-path-regex": path, "checks": {check: {"expected-statuses": [*usual, *statuses]}}}


_USUAL = {
    "not_a_server_error": ["2xx", "3xx", "4xx"],
    "positive_data_acceptance": ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"],
}


def _read(report: Report, recorder: Any) -> None:
    for interaction in recorder.interactions.values():
        answer = interaction.response
        report.answers[recorder.label, answer.status_code if answer else None] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is None:
                continue
            failure = check.failure_info.failure
            answer = recorder.interactions[case_id].response
            said = f"{answer.status_code} {(answer.content or b'')[:400]!r}" if answer else "no answer"
            what = f"{recorder.label}: {check.name}: {failure.title}: {failure.message[:300]}"
            report.failures.setdefault(what, f"{check.failure_info.code_sample[:1000]}\n  => {said}")


def _narrow(part: Any, known: Mapping[str, Sequence[Any]]) -> None:
    if isinstance(part, list):
        for item in part:
            _narrow(item, known)
        return
    if not isinstance(part, dict):
        return
    name = part.get("name")
    if isinstance(name, str) and name in known and "schema" in part:
        part["schema"] = _either(known[name], part["schema"])
    for field_name, schema in (part.get("properties") or {}).items():
        if field_name in known and isinstance(schema, dict):
            part["properties"][field_name] = _either(known[field_name], schema)
    for item in part.values():
        _narrow(item, known)


def _either(values: Sequence[Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(values)}, schema]}
