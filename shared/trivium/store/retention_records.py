"""What may go of records: evaluations, decisions, reviews, reports, the audit log, keys, leases."""

from collections.abc import Collection

from sqlalchemy import func, or_, select

from trivium.store.sweeps import Dependent, Sweep
from trivium.store.tables import (
    api_key,
    attempt,
    audit_event,
    decision,
    drift_report,
    evaluation,
    evaluation_case,
    feedback,
    lease,
    review,
)

EVALUATIONS_AT_ONCE = 10
"""An evaluation goes with all its cases in one transaction, so that none is left with half of them."""


def evaluations(before: float, promoted: Collection[str]) -> Sweep:
    """Takes away old evaluations with their cases.

    Of each variant the newest stays, and the newest of the version before, which the next is compared with;
    and those by which a version was promoted.
    """
    own, newer = evaluation.c, evaluation.alias()
    of = newer.c
    same = (of.feature == own.feature) & (of.variant == own.variant) & (of.id > own.id)
    again = select(of.id).where(same, of.version == own.version).exists()
    versions = select(func.count(of.version.distinct())).where(same, of.version != own.version)
    return Sweep(
        "evaluation",
        "evaluations past TRIVIUM_RETENTION_EVALUATIONS_DAYS",
        evaluation,
        (own.id,),
        goes=(own.created_at < before) & own.id.not_in(promoted) & or_(again, versions.scalar_subquery() > 1),
        dependents=(Dependent(evaluation_case.c.evaluation_id),),
        most=EVALUATIONS_AT_ONCE,
    )


def decisions(feature: str, before: float) -> Sweep:
    """Takes away decisions from before the one that brought the feature into its stage."""
    own, newer = decision.c, decision.alias()
    of = newer.c
    moved = select(of.id).where(of.feature == own.feature, of.id > own.id, of.to_stage != of.from_stage)
    return Sweep(
        "decision",
        f"decisions on {feature} past TRIVIUM_RETENTION_DECISIONS_DAYS",
        decision,
        (own.created_at, own.id),
        (own.feature == feature) & (own.created_at < before),
        moved.exists(),
    )


def reviews(before: float) -> Sweep:
    """Takes away old verdicts on what users disagreed on."""
    own = review.c
    return Sweep(
        "review",
        "reviews past TRIVIUM_RETENTION_DECISIONS_DAYS",
        review,
        (own.feature, own.input_hash),
        goes=own.created_at < before,
    )


def drift_reports(feature: str, before: float) -> Sweep:
    """Takes away a feature's old reports of drift."""
    own = drift_report.c
    return Sweep(
        "drift_report",
        f"reports of drift of {feature} past TRIVIUM_RETENTION_DRIFT_DAYS",
        drift_report,
        (own.created_at, own.id),
        (own.feature == feature) & (own.created_at < before),
    )


def audit_events(before: float) -> Sweep:
    """Takes away old events of the audit log."""
    own = audit_event.c
    return Sweep(
        "audit_event",
        "audit events past TRIVIUM_RETENTION_AUDIT_DAYS",
        audit_event,
        (own.created_at, own.id),
        own.created_at < before,
    )


def keys(before: float) -> Sweep:
    """Takes away keys that ended before a moment and that neither the ledger nor a successor names."""
    own = api_key.c
    tried = select(attempt.c.number).where(attempt.c.key_id == own.id)
    said = select(feedback.c.id).where(feedback.c.key_id == own.id)
    # Of a line of keys the first names its traffic: it is found from the last through all between.
    successor = api_key.alias()
    followed = select(successor.c.id).where(successor.c.replaces == own.id)
    return Sweep(
        "api_key",
        "keys that ended over TRIVIUM_RETENTION_KEYS_DAYS ago and that nothing names",
        api_key,
        (own.id,),
        goes=or_(own.revoked_at < before, own.expires_at < before)
        & ~tried.exists()
        & ~said.exists()
        & ~followed.exists(),
    )


def leases(before: float) -> Sweep:
    """Takes away leases that ended before a moment."""
    own = lease.c
    return Sweep("lease", "leases that ended a week ago", lease, (own.name,), goes=own.until < before)
