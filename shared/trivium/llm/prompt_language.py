"""The language of prompts: the part of Jinja that can neither leave the process nor hold it up.

A prompt shows values, chooses, and repeats. What could grow without bound (macros, namespaces, blocks,
calls, powers, lists of lists) is refused when the prompt is loaded; what is left is bounded while it runs.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import ChainableUndefined, StrictUndefined, TemplateRuntimeError, Undefined, nodes, pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from trivium.llm.prompt_values import FILTERS, bounded, show

MAX_TURNS = 200_000
MAX_CPU_S = 0.5
METER = " meter"
"""The meter's name among the variables, which no prompt can write."""

_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr, nodes.Getitem, nodes.Slice),
    *(nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword, nodes.CondExpr, nodes.Concat),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)
_LOOP_CALLS = frozenset({"cycle", "changed"})
_MAX_NUMBER = 10**18


class Absent(ChainableUndefined):
    """An optional field that is not there: empty, false, without items."""


class Meter:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._turns = MAX_TURNS
        self._until = time.thread_time() + MAX_CPU_S

    def count(self) -> None:
        """Counts a turn of a loop; raises TemplateRuntimeError if it was one too many."""
        self._turns -= 1
        if self._turns < 0 or time.thread_time() > self._until:
            raise TemplateRuntimeError("loops for too long")


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which data has fields and no methods, and operators make no giants."""

    intercepted_binops = frozenset({"+", "*", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, finalize=show)
        self.globals = {"range": self.globals["range"]}
        self.filters = FILTERS | {"_counted": _counted, "_optional": _optional}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of an object; raises, once it is used, if it is not there."""
        if isinstance(obj, (LoopContext, Undefined)):
            return super().getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A field of an object, or an item of a list."""
        if isinstance(obj, Undefined):
            return super().getitem(obj, argument)
        if isinstance(obj, (Mapping, list, tuple, str, range)):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Adds texts and numbers, multiplies numbers."""
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return super().call_binop(context, operator, left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            bounded(len(left) + len(right))
            return left + right
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            kinds = f"{type(left).__name__} {operator} {type(right).__name__}"
            raise TemplateRuntimeError(f"{kinds}: a prompt calculates with numbers alone")
        made = super().call_binop(context, operator, left, right)
        if abs(made) > _MAX_NUMBER:
            raise TemplateRuntimeError(f"{left} {operator} {right} is too large")
        return made


@pass_context
def _counted(context: Context, values: Iterable[Any] | None) -> Iterator[Any]:
    meter: Meter = context[METER]
    for value in () if values is None else values:
        meter.count()
        yield value


def _optional(value: Any) -> Any:
    return Absent(name="optional") if isinstance(value, Undefined) else value


def foreign(template: nodes.Template) -> Iterator[tuple[int, str]]:
    """The line of all that a prompt may not do, and why."""
    for node in template.find_all(nodes.Node):
        if fault := _fault(node):
            yield node.lineno or 1, fault


def _fault(node: nodes.Node) -> str | None:
    kind = type(node)
    if kind not in _ALLOWED:
        return f"a prompt has no {kind.__name__.lower()}"
    if isinstance(node, nodes.For) and node.recursive:
        return "a prompt's loop is not recursive"
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"there is no filter {node.name!r} in prompts; there are {', '.join(sorted(FILTERS))}"
    if isinstance(node, nodes.Call) and not _may_be_called(node.node):
        return "a prompt calls only range() and loop.cycle(); a value is changed by a filter"
    if isinstance(node, (nodes.List, nodes.Tuple)) and not _is_flat(node):
        return "a list in a prompt holds constants"
    return None


def _may_be_called(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Name):
        return node.name == "range"
    looped = isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name)
    return looped and node.node.name == "loop" and node.attr in _LOOP_CALLS  # type: ignore[attr-defined]


def _is_flat(node: nodes.List | nodes.Tuple) -> bool:
    if getattr(node, "ctx", "load") == "store":
        return True
    return all(isinstance(item, (nodes.Const, nodes.Neg)) for item in node.items)


class Hardened(NodeTransformer):
    """Makes every loop count its turns, every `~` bounded, and attributes that may lack empty."""

    def __init__(self, may_lack: Collection[int] = ()) -> None:
        self._may_lack = may_lack

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """A loop over values that are counted."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """The bounded filter `join`, for `~`."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        """A field, empty if it may lack."""
        self.generic_visit(node)
        return _filtered(node, "_optional") if id(node) in self._may_lack else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """A field, empty if it may lack."""
        self.generic_visit(node)
        return _filtered(node, "_optional") if id(node) in self._may_lack else node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
