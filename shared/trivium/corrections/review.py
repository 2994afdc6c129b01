"""The queue of inputs on which users disagree, and the verdicts that take them off it."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trivium.corrections.evidence import Evidence, compared_fields
from trivium.domain.corrections import Opinion, Right, Tally, Verdict, reopened
from trivium.errors import InvalidRequest, NotFound
from trivium.features import Feature

LEAST_PREFIX = 6


@dataclass(frozen=True, slots=True)
class Queued:
    """An input that is to be decided on; `verdict` is the one that somebody has contradicted since."""

    tally: Tally
    verdict: Verdict | None

    def as_object(self) -> dict[str, Any]:
        """As the command gives it in JSON."""
        tally = self.tally
        return {
            "input_hash": tally.input_hash,
            "input": tally.input,
            "entity_key": tally.entity_key,
            "answered": _answers(tally.opinions),
            "values": [{"value": n, **_right(one)} for n, one in enumerate(tally.rights, start=1)],
            "refused": [_who(one) | {"output": one.answered} for one in tally.rejections],
            "decided": None if self.verdict is None else _verdict(self.verdict),
        }


def queue(feature: Feature, evidence: Evidence, verdicts: Mapping[str, Verdict]) -> list[Queued]:
    """What is disputed and not decided, or contradicted since; that of which most was said comes first."""
    fields = compared_fields(feature)
    found = []
    for hashed, tally in evidence.tallies.items():
        verdict = verdicts.get(hashed)
        waits = tally.disputed if verdict is None else reopened(tally, verdict, fields)
        if waits:
            found.append(Queued(tally, verdict))
    return sorted(found, key=lambda one: (-len(one.tally.opinions), one.tally.input_hash))


def full_hash(prefix: str, known: Collection[str]) -> str:
    """The one input whose hash begins so.

    Raises:
        NotFound: there is none, or more than one.
    """
    found = [hashed for hashed in known if hashed.startswith(prefix)]
    if len(prefix) < LEAST_PREFIX or len(found) != 1:
        told = f"begins {len(found)} inputs' hashes" if found else "begins no input's hash"
        raise NotFound(
            f"{prefix!r} {told}; `--list` shows them, and {LEAST_PREFIX} digits at least are needed"
        )
    return found[0]


def accepted(tally: Tally, value: int | None, by: str, reason: str | None) -> Verdict:
    """The verdict that one of the outputs is right, counted from 1; by default that of most subjects.

    Raises:
        InvalidRequest: there is no such output, or no number was given and none has most subjects.
    """
    rights = tally.rights
    if value is None:
        if not rights or (len(rights) > 1 and len(rights[0].said) == len(rights[1].said)):
            raise InvalidRequest(f"{tally.input_hash}: no value has most subjects; say which: {_told(tally)}")
        value = 1
    if not 1 <= value <= len(rights):
        raise InvalidRequest(f"{tally.input_hash}: there is no value {value}; there are {_told(tally)}")
    return _make(tally.input_hash, "accept", rights[value - 1].output, by, reason)


def amended(feature: Feature, hashed: str, output: dict[str, Any], by: str, reason: str | None) -> Verdict:
    """The verdict that something else is right; raises SchemaViolation if it is no output of the feature."""
    feature.check_output(output)
    return _make(hashed, "amend", output, by, reason)


def dropped(hashed: str, by: str, reason: str) -> Verdict:
    """The verdict that an input teaches nothing."""
    return _make(hashed, "drop", None, by, reason)


def _make(
    hashed: str,
    verdict: Literal["accept", "amend", "drop"],
    output: dict[str, Any] | None,
    by: str,
    reason: str | None,
) -> Verdict:
    return Verdict(hashed, verdict, output, by, reason, time.time())


def _told(tally: Tally) -> str:
    told = (f"{n}: {one.output} ({len(one.said)})" for n, one in enumerate(tally.rights, start=1))
    return ", ".join(told) or "none"


def _right(right: Right) -> dict[str, Any]:
    return {
        "output": right.output,
        "subjects": len(right.said),
        "last_at": max(one.occurred_at for one in right.said),
        "said": [_who(one) for one in right.said],
    }


def _who(one: Opinion) -> dict[str, Any]:
    how = "accepted" if one.accepts else "gave" if one.right is not None else "refused"
    return {"subject": one.subject, "at": one.occurred_at, "how": how, "inference_id": one.inference_id}


def _answers(opinions: Collection[Opinion]) -> list[dict[str, Any]]:
    """The answers that were spoken of, each once, with who gave them."""
    found: dict[str, dict[str, Any]] = {}
    for one in opinions:
        found.setdefault(f"{one.variant} {one.answered}", {"output": one.answered, "variant": one.variant})
    return list(found.values())


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.verdict,
        "output": verdict.output,
        "by": verdict.decided_by,
        "reason": verdict.reason,
        "at": verdict.created_at,
    }
