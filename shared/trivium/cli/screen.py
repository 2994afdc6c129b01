"""A console that shows texts of users and models as texts: none of their escape sequences gets through."""

import re
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

# Control characters but tab and newline, and those that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Console(rich.console.Console):
    """Rich's, with every control character in what is printed replaced; its own styles stay."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.push_render_hook(_Plain())


class _Plain(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(one) for one in renderables]


class _Cleaned:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        yield from _clean(console.render(self._inner, options))


def _clean(segments: Iterable[Segment]) -> Iterable[Segment]:
    for segment in segments:
        if segment.control or not _CONTROLS.search(segment.text):
            yield segment
        else:
            yield Segment(_CONTROLS.sub(REPLACEMENT, segment.text), segment.style)
