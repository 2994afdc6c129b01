"""How deeply a JSON body is nested, found in time that grows with its length alone."""

import re
from array import array
from itertools import accumulate

MAX_DEPTH = 100
# A string without its end is one token too: else each of its quotes would be looked at to the end.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def is_too_deep(raw: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether brackets outside strings are nested deeper than `limit`; whether they match is not asked."""
    # Brackets within strings count too: few honest bodies come near the limit.
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    steps = _STRINGS.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(array("b", steps)), default=0) > limit
