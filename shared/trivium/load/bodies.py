"""Request bodies: a real mix of texts, each in the shape that the server reads."""

import enum
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trivium.datasets import read_records
from trivium.errors import ConfigurationError

MOST_TEXTS = 10_000
PLACE = "{text}"


class Shape(enum.StrEnum):
    """A body that is known by name."""

    OPEN_INFERENCE = "open-inference"
    FEATURE = "feature"

    @classmethod
    def of(cls, url: str) -> "Shape":
        """The shape that a URL's path tells.

        Raises:
            ConfigurationError: it tells none.
        """
        path = urlsplit(url).path
        if "/v2/models/" in path:
            return cls.OPEN_INFERENCE
        if "/v1/features/" in path:
            return cls.FEATURE
        raise ConfigurationError(
            f"--url {url}: its path tells no shape of the body; give --shape "
            f"({' or '.join(cls)}) or --body template.json"
        )


def read_texts(path: Path, field: str = "text", seed: int = 0) -> list[str]:
    """The texts of a CSV or JSONL file, shuffled; of more than 10,000, a sample of 10,000.

    Raises:
        DatasetError: the file does not read, or a line has no text. ConfigurationError: no line.
    """
    texts = [str(record[field]) for record in read_records(path, (field,))]
    if not texts:
        raise ConfigurationError(f"{path}: no line in it; one text at least is needed")
    return random.Random(seed).sample(texts, min(len(texts), MOST_TEXTS))


def make_bodies(
    shape: Shape | Path, texts: Sequence[str], deadline_ms: float, text_input: str = "text"
) -> list[bytes]:
    """One JSON body a text, in a named shape or by a template file that has "{text}" in a string.

    Raises:
        ConfigurationError: the template is missing, is not JSON or has no "{text}".
    """
    make = _template(shape) if isinstance(shape, Path) else _named(shape, deadline_ms, text_input)
    return [
        json.dumps(make(number, text), ensure_ascii=False).encode("utf-8", "replace")
        for number, text in enumerate(texts)
    ]


def _named(shape: Shape, deadline_ms: float, text_input: str) -> Callable[[int, str], Any]:
    def open_inference(number: int, text: str) -> Any:
        return {"inputs": [{"name": text_input, "shape": [1], "datatype": "BYTES", "data": [text]}]}

    def feature(number: int, text: str) -> Any:
        return {
            "input": {text_input: text},
            "subject": {"id": f"load-{number}"},
            "deadline_ms": round(deadline_ms),
        }

    return open_inference if shape is Shape.OPEN_INFERENCE else feature


def _template(path: Path) -> Callable[[int, str], Any]:
    try:
        template = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--body {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"--body {path}: not JSON: {error}") from error
    if PLACE not in json.dumps(template):
        raise ConfigurationError(f'--body {path}: no string in it has "{PLACE}", so no text would be sent')
    return lambda number, text: _fill(template, text)


def _fill(value: Any, text: str) -> Any:
    if isinstance(value, str):
        return value.replace(PLACE, text)
    if isinstance(value, list):
        return [_fill(entry, text) for entry in value]
    if isinstance(value, dict):
        return {name: _fill(entry, text) for name, entry in value.items()}
    return value
