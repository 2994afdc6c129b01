"""A manifest's text with another variant served: two places change, every other character stays."""

from typing import Any

import yaml

from trivium.errors import ConfigurationError
from trivium.features import Feature

Edit = tuple[int, int, str]


def serving(text: str, feature: Feature, variant: str) -> str:
    """Serves a variant; the one that was served, which no chain has twice, becomes the first fallback.

    Raises:
        ConfigurationError: `serve` or `fallback` is written by means of an alias or a merged key.
    """
    served = feature.manifest.serve
    if served == variant:
        return text
    serve, fallback = _value(text, feature, "serve"), _value(text, feature, "fallback")
    edits: list[Edit] = [(serve.start_mark.index, serve.end_mark.index, variant)]
    if variant in feature.manifest.fallback:
        edits.append(_without(text, fallback, feature.manifest.fallback.index(variant)))
    edits.append(_before(text, fallback, fallback.value[0], served))
    # The last first, so that the places of the others stay; what is put in stands before what is taken out.
    for start, end, put in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        text = text[:start] + put + text[end:]
    return text


def _value(text: str, feature: Feature, key: str) -> Any:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for name, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == key and value.start_mark.index >= name.end_mark.index:
            return value
    raise ConfigurationError(
        f"{feature.name}: {key} cannot be changed by machine; change the manifest by hand"
    )


def _without(text: str, fallback: Any, place: int) -> Edit:
    """Takes an item out; it is never the last, which is static."""
    item, following = fallback.value[place], fallback.value[place + 1]
    if fallback.flow_style:
        return item.start_mark.index, following.start_mark.index, ""
    end = text.find("\n", item.end_mark.index)
    return _line(text, item), end + 1, ""


def _before(text: str, fallback: Any, first: Any, name: str) -> Edit:
    start: int = first.start_mark.index
    if fallback.flow_style:
        return start, start, f"{name}, "
    line = _line(text, first)
    newline = "\r\n" if "\r\n" in text else "\n"
    return line, line, text[line:start] + name + newline


def _line(text: str, item: Any) -> int:
    """Where the line begins that an item's dash stands in."""
    dash = text.rfind("-", 0, item.start_mark.index)
    return text.rfind("\n", 0, dash) + 1
