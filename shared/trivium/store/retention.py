"""What may go of the ledger: payloads after a feature's retention, whole inferences after the ledger's."""

from dataclasses import replace

from sqlalchemy import null, or_, select

from trivium.store.corrections import JUDGING
from trivium.store.sweeps import Dependent, Sweep
from trivium.store.tables import attempt, feedback, inference, shadow_answer

DAY_S = 86_400
LEDGER_DAYS = 62
"""Costs are kept so long at least: a month's budget, and the month before."""


def kept_days(retention_days: float) -> float:
    """How long whole inferences stay."""
    return max(retention_days, LEDGER_DAYS)


def payloads(name: str, before: float, spared: frozenset[str] = frozenset(), since: float = 0.0) -> Sweep:
    """Takes input and output out of a feature's or a route's inferences, and what users said is right.

    Args:
        name: of the feature or route.
        before: the inferences are from before this moment.
        spared: ids of inferences that keep theirs.
        since: the inferences are from then on; older ones go as a whole.
    """
    own = inference.c
    return Sweep(
        "inference_payload",
        f"payloads of {name} past its retention_days",
        inference,
        (own.created_at, own.id),
        (own.feature == name) & (own.created_at >= since) & (own.created_at < before),
        or_(own.input.is_not(null()), own.output.is_not(null())),
        (Dependent(feedback.c.inference_id, {"value": null()}),),
        {"input": null(), "output": null(), "input_hash": None},
        spared,
        (before, ""),
    )


def judged_payloads(name: str, before: float) -> Sweep:
    """Of these payloads those of answers that somebody has judged; to be counted, not to be taken away."""
    of, all_of = feedback.c, payloads(name, before)
    said = select(of.id).where(
        of.inference_id == inference.c.id, of.kind.in_([kind.value for kind in JUDGING])
    )
    return replace(all_of, goes=all_of.goes & said.exists())


def inferences(name: str, before: float, spared: frozenset[str] = frozenset()) -> Sweep:
    """Takes away whole inferences, with attempts and feedback."""
    own = inference.c
    return Sweep(
        "inference",
        f"inferences of {name} past its retention_days and {LEDGER_DAYS} days",
        inference,
        (own.created_at, own.id),
        (own.feature == name) & (own.created_at < before),
        dependents=(Dependent(attempt.c.inference_id), Dependent(feedback.c.inference_id)),
        spared=spared,
    )


def shadow_outputs(name: str, before: float, since: float = 0.0) -> Sweep:
    """Takes away what a feature's candidates said."""
    own = shadow_answer.c
    return Sweep(
        "shadow_answer_payload",
        f"candidates' outputs of {name} past its retention_days",
        shadow_answer,
        (own.created_at, own.id),
        (own.feature == name) & (own.created_at >= since) & (own.created_at < before),
        own.output.is_not(null()),
        values={"output": null()},
        seen=(before, ""),
    )


def shadows(name: str, before: float) -> Sweep:
    """Takes away that candidates were asked, with what that cost."""
    own = shadow_answer.c
    return Sweep(
        "shadow_answer",
        f"candidates' answers of {name} past its retention_days and {LEDGER_DAYS} days",
        shadow_answer,
        (own.created_at, own.id),
        (own.feature == name) & (own.created_at < before),
        dependents=(Dependent(attempt.c.inference_id),),
    )


def attempts_left(name: str, before: float) -> Sweep:
    """Takes away attempts whose inference or shadow answer is not there."""
    own = attempt.c
    of = select(inference.c.id).where(inference.c.id == own.inference_id).exists()
    beside = select(shadow_answer.c.id).where(shadow_answer.c.id == own.inference_id).exists()
    return Sweep(
        "attempt",
        f"attempts of {name} without an inference",
        attempt,
        (own.created_at, own.inference_id, own.number),
        (own.feature == name) & (own.created_at < before),
        ~of & ~beside,
    )


def feedback_left(before: float) -> Sweep:
    """Takes away feedback whose inference never came."""
    own = feedback.c
    of = select(inference.c.id).where(inference.c.id == own.inference_id).exists()
    return Sweep(
        "feedback",
        "feedback whose inference never came, past TRIVIUM_RETENTION_ORPHANS_DAYS",
        feedback,
        (own.received_at, own.id),
        own.received_at < before,
        ~of,
        seen=(before, ""),
    )
