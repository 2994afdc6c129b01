"""A reference from a file instead of from what was served."""

from pathlib import Path
from typing import Any

from trivium.datasets import read_records
from trivium.domain.drift import MIN_REFERENCE, Observation
from trivium.errors import DatasetError
from trivium.features import Feature

MAX_ROWS = 50_000
"""Of more, so many that are spread evenly over the file."""


def read_reference(path: Path, feature: Feature) -> list[Observation]:
    """The records of a CSV or JSONL file as observations, each of a subject of its own.

    A record has the input under `input` and, if it is to be compared, the right output under `expected` or
    `output`, as a dataset has; or the fields of both side by side. What else is observed of traffic
    (confidence, overrides, fallbacks) it does not tell.

    Raises:
        DatasetError: the file does not read, or has too few records with an input.
    """
    found = []
    for number, record in enumerate(read_records(path), start=1):
        given = _part(record, ("input",), feature.manifest.input)
        output = _part(record, ("expected", "output"), feature.manifest.output)
        if given or output:
            name = f"{path.name}:{number}"
            found.append(Observation(name, 0.0, name, given or None, output or None))
    if len(found) < MIN_REFERENCE:
        fields = [*_names(feature.manifest.input), *_names(feature.manifest.output)]
        raise DatasetError(
            f"{path}: {len(found)} records with a field of {feature.name} ({', '.join(fields)}), under "
            f"{MIN_REFERENCE}; a record is {{input: {{…}}, expected: {{…}}}}, or has the fields side by side"
        )
    if len(found) > MAX_ROWS:
        return [found[place * len(found) // MAX_ROWS] for place in range(MAX_ROWS)]
    return found


def _part(record: dict[str, Any], names: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    for name in names:
        if isinstance(nested := record.get(name), dict):
            return nested
    return {name: record[name] for name in _names(schema) if record.get(name) is not None}


def _names(schema: dict[str, Any]) -> list[str]:
    return list(schema.get("properties") or {})
