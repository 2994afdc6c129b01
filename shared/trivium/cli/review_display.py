"""How a queued input is shown in a terminal."""

import json
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

SHOWN_SUBJECTS = 3


def show(console: Console, told: dict[str, Any]) -> None:
    """Shows what was asked and answered, and who says what of it."""
    console.print(f"[bold]{told['input_hash'][:12]}[/]", end=" ")
    console.print(text(told["input"] or told["entity_key"]), markup=False)
    for answer in told["answered"]:
        console.print(f"  answered {text(answer['output'])} by {answer['variant']}", markup=False)
    for right in told["values"]:
        subjects = [f"{text(said['subject'])} {said['how']} it" for said in right["said"]]
        more = len(subjects) - SHOWN_SUBJECTS
        who = ", ".join(subjects[:SHOWN_SUBJECTS]) + (f" and {more} more" if more > 0 else "")
        times = f"{right['subjects']} subject(s), last {_date(right['last_at'])}"
        console.print(f"  {right['value']}  {text(right['output'])}  {times}: {who}", markup=False)
    for refusal in told["refused"]:
        where = f"{text(refusal['subject'])}, {_date(refusal['at'])}"
        console.print(f"  -  not {text(refusal['output'])}: {where}", markup=False)
    if decided := told["decided"]:
        was = f"{decided['verdict']} {text(decided['output'])} by {decided['by']}, {_date(decided['at'])}"
        console.print(f"  contradicted since: {was}", markup=False)


def text(value: Any) -> str:
    """A text as it is, but without what would steer the terminal; of all else the JSON."""
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in told)


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="minutes")[:16]
