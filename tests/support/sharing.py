"""Which tests run in one process of several: those of a file, and those that share what starts slowly."""

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

SHARED = {"platform": re.compile(r"mark\.platform\b"), "unleash": re.compile(r"\bunleash: Unleash\b")}


class BySharedParts(LoadScopeScheduling):  # type: ignore[misc]  # it is untyped
    """Hands out files; those that share a part go to one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return _shared(str(Path(self.config.rootpath) / path)) or path


@cache
def _shared(path: str) -> str | None:
    text = Path(path).read_text(encoding="utf-8")
    return next((name for name, mark in SHARED.items() if mark.search(text)), None)
