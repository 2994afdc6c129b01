"""YAML as plain data, with the line of every value, so that a fault can say where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
Fault = tuple[Path, str]
MAX_VALUES = 50_000


class NotYaml(ValueError):
    """The text is not YAML; `line` is where."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _PlainLoader(yaml.SafeLoader):
    """Without timestamps: what JSON does not have, a manifest has as text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the parent, with the line of a value that Python cannot hold."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise NotYaml(node.start_mark.line + 1, str(error)) from error


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Located:
    """The data, the line of every path in it, and the keys that stand twice."""

    data: Any
    lines: dict[Path, int]
    duplicates: list[Fault]

    def line_of(self, path: Path) -> int:
        """The line of a path, or of the nearest value above it that is there."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def load_located(text: str) -> Located:
    """Reads one YAML document.

    Raises:
        NotYaml: it is none, or a value contains itself.
    """
    try:
        root = yaml.compose(text, Loader=_PlainLoader)
        lines: dict[Path, int] = {}
        duplicates = list(_walk(root, (), lines, ())) if root else []
        return Located(yaml.load(text, Loader=_PlainLoader), lines, duplicates)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise NotYaml(mark.line + 1 if mark else 1, str(error.problem)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(line, f"the character #x{error.character:04x} is not allowed") from error
    except RecursionError as error:
        raise NotYaml(1, "nested too deeply") from error


def _walk(
    node: yaml.Node, path: Path, lines: dict[Path, int], above: tuple[yaml.Node, ...]
) -> Iterator[Fault]:
    """Notes the line of every path; yields keys that stand twice."""
    if any(node is parent for parent in above):
        raise NotYaml(node.start_mark.line + 1, "the value contains itself")
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MAX_VALUES:
        raise NotYaml(node.start_mark.line + 1, f"has over {MAX_VALUES:,} values; aliases count at each use")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise NotYaml(key.start_mark.line + 1, "a key must be a word, not a list or a mapping")
            here = (*path, str(key.value))
            lines[here] = key.start_mark.line + 1
            if key.value in seen:
                yield here, "stands twice"
            seen.add(key.value)
            yield from _walk(value, here, lines, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _walk(item, (*path, position), lines, (*above, node))
