"""What a prompt reads, checked against the schema of what it is given."""

from collections.abc import Iterator
from typing import Any

from jinja2 import meta, nodes

Schema = dict[str, Any]

_OPEN = ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if")
_PLAIN = ("string", "number", "integer", "boolean", "null")


class Reading:
    """The variables that a template reads, its faults by line, and the attributes that may lack."""

    def __init__(self, template: nodes.Template, schema: Schema) -> None:
        self.faults: list[tuple[int, str]] = []
        self.may_lack: set[int] = set()
        self.names = meta.find_undeclared_variables(template)
        self._top = schema
        self._bound: dict[str, Schema] = {}
        self._check_names(template)
        self._bind(template)
        for node in template.find_all((nodes.Getattr, nodes.Getitem)):
            self._check_step(node)

    def _check_names(self, template: nodes.Template) -> None:
        known = self._top.get("properties") or {}
        for name in sorted(self.names - known.keys()):
            line = next((n.lineno for n in template.find_all(nodes.Name) if n.name == name), 1)
            self.faults.append((line, _no_property(name, "input", known)))

    def _bind(self, template: nodes.Template) -> None:
        """Finds out what the variables of loops hold; what is set, or bound twice, may be anything."""
        binding: tuple[type[nodes.For], type[nodes.Assign]] = (nodes.For, nodes.Assign)
        for node in template.find_all(binding):
            assert isinstance(node, (nodes.For, nodes.Assign))
            schema = _items(self._of(node.iter)) if isinstance(node, nodes.For) else {}
            single = isinstance(node.target, nodes.Name)
            for name in _targets(node.target):
                again = name in self._bound or name in self.names
                self._bound[name] = schema if single and not again else {}

    def _check_step(self, node: nodes.Expr) -> None:
        step = _step(node)
        if step is None:
            return
        parent, name = step
        schema = self._of(parent)
        known = schema.get("properties")
        if schema.get("type") in _PLAIN:
            told = f"{{{{ {_path(node)} }}}}: {_path(parent)} is of type {schema['type']} and has no fields"
            self.faults.append((node.lineno, told))
        elif isinstance(known, dict) and name in known:
            if name not in schema.get("required", ()):
                self.may_lack.add(id(node))
        elif isinstance(known, dict) and not any(schema.get(key) for key in _OPEN):
            self.faults.append((node.lineno, _no_property(_path(node), f"input.{_path(parent)}", known)))

    def _of(self, node: nodes.Node) -> Schema:
        """The schema of an expression's value, empty if it may be anything."""
        if isinstance(node, nodes.Name):
            if node.name in self._bound:
                return self._bound[node.name]
            return _property(self._top, node.name)
        if step := _step(node):
            return _property(self._of(step[0]), step[1])
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
            return _items(self._of(node.node))
        return {}


def type_of(schema: Any) -> str:
    """The type of a property, as a reader wants it."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind or "any")


def _no_property(path: str, of: str, known: Schema) -> str:
    return f"{{{{ {path} }}}} is not a property of {of}; there are {', '.join(known) or 'none'}"


def _step(node: nodes.Node) -> tuple[nodes.Expr, str] | None:
    """What a field is taken from, and its name."""
    if isinstance(node, nodes.Getattr):
        return node.node, node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return (node.node, node.arg.value) if isinstance(node.arg.value, str) else None
    return None


def _path(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    if step := _step(node):
        return f"{_path(step[0])}.{step[1]}"
    return f"{_path(node.node)}[]" if isinstance(node, nodes.Getitem) else "…"


def _property(schema: Schema, name: str) -> Schema:
    found = (schema.get("properties") or {}).get(name)
    return found if isinstance(found, dict) else {}


def _items(schema: Schema) -> Schema:
    found = schema.get("items")
    return found if isinstance(found, dict) else {}


def _targets(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        yield node.name
    for name in node.find_all(nodes.Name):
        yield name.name
