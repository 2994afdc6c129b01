"""What may go of all that can be computed again: runs, results, embeddings, wishes, references of drift."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from trivium.domain.precompute import ENDED
from trivium.store.runs import BULK, REFRESH
from trivium.store.sweeps import Sweep
from trivium.store.tables import (
    archive_embedding,
    archive_item,
    dead_item,
    drift_reference,
    precompute_chunk,
    precompute_run,
    precomputed_result,
    refresh_request,
)

DONE = ("done", "done_with_errors")
PARTIAL = ("refresh", "replay")
"""Triggers of runs that look at some of the entities only."""


def ended_runs(before: float) -> list[Sweep]:
    """Takes away chunks and dead items of runs that ended before a moment, then the runs.

    The newest run of each version of a variant stays, and the newest by which all its results were brought up
    to date: the next one goes on from there.
    """
    run, chunk, dead = precompute_run.c, precompute_chunk.c, dead_item.c
    why, until = "runs that ended over TRIVIUM_RETENTION_RUNS_DAYS ago", first_id(before)
    over = run.state.in_(ENDED) & (run.finished_at < before)
    under_way = select(run.id).where(~over)
    parts = or_(
        select(chunk.id).where(chunk.run_id == run.id).exists(),
        select(dead.run_id).where(dead.run_id == run.id).exists(),
    )
    return [
        Sweep(
            *("precompute_chunk", why, precompute_chunk, (chunk.run_id, chunk.phase, chunk.state, chunk.id)),
            chunk.run_id < until,
            ~under_way.where(run.id == chunk.run_id).exists(),
        ),
        Sweep(
            *("dead_item", why, dead_item, (dead.run_id, dead.entity_key)),
            dead.run_id < until,
            ~under_way.where(run.id == dead.run_id).exists(),
        ),
        Sweep(
            *("precompute_run", why, precompute_run, (run.id,)),
            run.id < until,
            over & ~_needed() & ~parts,
        ),
    ]


def results_of_gone_variant(feature: str, variant: str) -> Sweep:
    """Takes away all results of a variant."""
    own = precomputed_result.c
    return Sweep(
        "precomputed_result",
        f"results of {feature} {variant}, which no worker has known for TRIVIUM_RETENTION_RESULTS_DAYS",
        precomputed_result,
        (own.entity_key,),
        (own.feature == feature) & (own.variant == variant),
    )


def results_past_use(feature: str, variant: str, archive: str, hard: float, before: float) -> Sweep:
    """Takes away results that nobody is served any more, and older ones of entities that are gone.

    Args:
        feature: whose.
        variant: whose.
        archive: that an entity must be in.
        hard: results from before this moment go.
        before: those from before this one go if the entity is gone.
    """
    own, item = precomputed_result.c, archive_item.c
    there = select(item.entity_key).where(item.archive == archive, item.entity_key == own.entity_key)
    return Sweep(
        "precomputed_result",
        f"results of {feature} {variant} over their hard_max_age_s, or of entities that are gone",
        precomputed_result,
        (own.entity_key,),
        (own.feature == feature) & (own.variant == variant),
        or_(own.computed_at < hard, (own.computed_at < before) & ~there.exists()),
    )


def embeddings(archive: str, models: Collection[str], before: float) -> Sweep:
    """Takes away embeddings of records that are gone, and by models that no variant names.

    Those that were made or seen by a run since `before` stay.
    """
    own, item = archive_embedding.c, archive_item.c
    there = select(item.entity_key).where(item.archive == archive, item.entity_key == own.entity_key)
    return Sweep(
        "archive_embedding",
        f"embeddings of {archive} whose record or model is gone",
        archive_embedding,
        (own.entity_key, own.model),
        own.archive == archive,
        (func.coalesce(own.run_id, "") < first_id(before)) & (~there.exists() | own.model.not_in(models)),
    )


def refreshes(before: float) -> Sweep:
    """Takes away wishes that nobody has served."""
    own = refresh_request.c
    return Sweep(
        "refresh_request",
        "refreshes that nobody made within TRIVIUM_RETENTION_RUNS_DAYS",
        refresh_request,
        (own.feature, own.variant, own.entity_key),
        goes=own.requested_at < before,
    )


def reference_of_gone_version(feature: str, variant: str, version: str) -> Sweep:
    """Takes away what drift of a version would be measured from."""
    own = drift_reference.c
    return Sweep(
        "drift_reference",
        f"drift's reference of {feature} {variant} {version}, which no worker has known for "
        "TRIVIUM_RETENTION_DRIFT_DAYS",
        drift_reference,
        (own.feature, own.variant, own.version),
        (own.feature == feature) & (own.variant == variant) & (own.version == version),
    )


def first_id(at: float) -> str:
    """The least UUIDv7 of a moment."""
    digits = f"{max(int(at * 1000), 0):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def _needed() -> ColumnElement[bool]:
    """Of the run of the query: nothing newer takes its place."""
    run, newer = precompute_run.c, precompute_run.alias()
    of = newer.c
    same = (of.feature == run.feature) & (of.variant == run.variant)
    later = (of.variant_version == run.variant_version) & (of.id > run.id) & (of.priority == BULK)
    better = select(of.id).where(same, later, or_(~_whole(run), _whole(of))).exists()
    return (run.priority != REFRESH) & ~better


def _whole(of: Any) -> ColumnElement[bool]:
    whole: ColumnElement[bool] = (
        of.state.in_(DONE) & (func.coalesce(of.failed, 1) == 0) & of.trigger.not_in(PARTIAL)
    )
    return whole
