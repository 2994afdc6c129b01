"""When two inputs, or two outputs, are the same, and on which side of a split an input falls."""

import hashlib
import json
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Literal

Side = Literal["train", "eval"]


def normalised(value: Any) -> Any:
    """A value with its texts folded: case, compatibility forms and runs of white space make no difference."""
    if isinstance(value, str):
        for _ in range(2):
            value = unicodedata.normalize("NFKC", value.casefold())
        return " ".join(value.split())
    if isinstance(value, dict):
        return {name: normalised(item) for name, item in value.items()}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    return value


def input_hash(given: dict[str, Any], entity_key: str | None = None) -> str:
    """32 hex digits by which inputs are the same; the entity key counts where there is no input."""
    return _digest(normalised(given) if given else {"entity_key": entity_key})


def output_key(output: dict[str, Any], fields: Collection[str] = ()) -> str:
    """32 hex digits by which outputs are the same but for white space, by some fields only or by all."""
    chosen = {name: output[name] for name in fields if name in output} if fields else output
    return _digest(_trimmed(chosen))


def side_of(hashed: str, eval_share: float, before: Mapping[str, Side]) -> Side:
    """Whether an input is trained on or evaluated: as it ever was, else by its hash alone."""
    if hashed in before:
        return before[hashed]
    return "eval" if int(hashed[:12], 16) < eval_share * 16**12 else "train"


def _trimmed(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split())
    if isinstance(value, dict):
        return {name: _trimmed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_trimmed(item) for item in value]
    return value


def _digest(value: Any) -> str:
    # ASCII, so that a lone surrogate has a digest too.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
