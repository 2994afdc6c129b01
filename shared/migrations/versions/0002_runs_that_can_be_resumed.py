"""Runs that import, are cancelled, replayed and queued; results by variant; dead items; refreshes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COUNTS = ("computed", "unchanged", "abstained", "failed", "gone")


def upgrade() -> None:
    with op.batch_alter_table("inference") as table:
        table.add_column(sa.Column("status", sa.String(16), nullable=False, server_default="done"))
    with op.batch_alter_table("archive_embedding") as table:
        table.add_column(sa.Column("run_id", sa.String(36), nullable=True))
    _runs_with_counts()
    _chunks_with_keys()
    _results_by_variant()
    op.create_table(
        "dead_item",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("variant_version", sa.String(64), nullable=False),
        sa.Column("input_hash", sa.String(32), nullable=True),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("abstained", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("replayed_in", sa.String(36), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "entity_key", name=op.f("pk_dead_item")),
    )
    op.create_index(op.f("ix_dead_item_feature_created_at"), "dead_item", ["feature", "created_at"])
    op.create_table(
        "refresh_request",
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("record", Json, nullable=True),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=True),
        sa.PrimaryKeyConstraint("feature", "variant", "entity_key", name=op.f("pk_refresh_request")),
    )
    op.create_index(op.f("ix_refresh_request_run_id"), "refresh_request", ["run_id"])


def downgrade() -> None:
    op.drop_table("refresh_request")
    op.drop_table("dead_item")
    _results_by_entity()
    op.drop_table("precompute_chunk")
    _runs_without_counts()
    _chunks_with_ranges()
    with op.batch_alter_table("archive_embedding") as table:
        table.drop_column("run_id")
    with op.batch_alter_table("inference") as table:
        table.drop_column("status")


def _runs_with_counts() -> None:
    """Runs keep their outcome. One that was under way is ended, because its chunks are not taken over."""
    op.drop_table("precompute_chunk")
    _set_aside("precompute_run")
    op.create_table(
        "precompute_run",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("variant_version", sa.String(64), nullable=False),
        sa.Column("trigger", sa.String(16), nullable=False),
        sa.Column("source", Json, nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("key_id", sa.String(36), nullable=True),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("max_error_ratio", sa.Double(), nullable=False),
        sa.Column("max_cost_usd", sa.Double(), nullable=True),
        sa.Column("line_errors", Json, nullable=False),
        sa.Column("bad_lines", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=True) for name in _COUNTS),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'done', 'done_with_errors', 'failed', 'cancelled')",
            name=op.f("ck_precompute_run_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_precompute_run")),
        sa.UniqueConstraint(
            "feature", "idempotency_key", name=op.f("uq_precompute_run_feature_idempotency_key")
        ),
    )
    op.create_index(op.f("ix_precompute_run_state"), "precompute_run", ["state"])
    op.create_index(op.f("ix_precompute_run_feature_created_at"), "precompute_run", ["feature", "created_at"])
    op.execute(
        """INSERT INTO precompute_run (id, feature, variant, variant_version, "trigger", source, state, phase,
             priority, force, max_error_ratio, line_errors, bad_lines, total, computed, unchanged, abstained,
             failed, gone, cost_usd, error, created_at, started_at, finished_at)
           SELECT id, feature, variant, variant_version, 'cli', '{"kind": "archive"}',
             CASE state WHEN 'running' THEN 'failed' ELSE state END, 'compute', 1, FALSE, 0.2, '[]', 0,
             entities, CASE state WHEN 'done' THEN entities ELSE 0 END, 0, 0, 0, 0, 0,
             CASE state WHEN 'running' THEN 'interrupted by an upgrade; start it again' ELSE error END,
             created_at, created_at, COALESCE(finished_at, created_at) FROM set_aside"""
    )
    op.drop_table("set_aside")


def _runs_without_counts() -> None:
    _set_aside("precompute_run")
    op.create_table(
        "precompute_run",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("variant_version", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("entities", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint("state in ('running', 'done', 'failed')", name=op.f("ck_precompute_run_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_precompute_run")),
    )
    op.create_index(op.f("ix_precompute_run_state"), "precompute_run", ["state"])
    op.execute(
        """INSERT INTO precompute_run (id, feature, variant, variant_version, state, phase, entities, error,
             created_at, finished_at)
           SELECT id, feature, variant, variant_version, CASE state WHEN 'done' THEN 'done' ELSE 'failed' END,
             'compare', COALESCE(total, 0), error, created_at, COALESCE(finished_at, created_at)
           FROM set_aside"""
    )
    op.drop_table("set_aside")


def _chunks_with_keys() -> None:
    op.create_table(
        "precompute_chunk",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("entity_keys", Json, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.Column("worker", sa.String(64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("cursor", Json, nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "state in ('pending', 'leased', 'done', 'split', 'cancelled')",
            name=op.f("ck_precompute_chunk_state"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["precompute_run.id"], name=op.f("fk_precompute_chunk_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_precompute_chunk")),
    )
    op.create_index(
        op.f("ix_precompute_chunk_run_id_phase_state"), "precompute_chunk", ["run_id", "phase", "state"]
    )
    op.create_index(
        op.f("ix_precompute_chunk_run_id_finished_at"), "precompute_chunk", ["run_id", "finished_at"]
    )


def _chunks_with_ranges() -> None:
    """Empty: runs that are under way are not taken over."""
    op.create_table(
        "precompute_chunk",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("first_key", sa.Text(), nullable=False),
        sa.Column("last_key", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state in ('pending', 'leased', 'done', 'failed')", name=op.f("ck_precompute_chunk_state")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["precompute_run.id"], name=op.f("fk_precompute_chunk_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_precompute_chunk")),
    )
    op.create_index(
        op.f("ix_precompute_chunk_run_id_phase_state"), "precompute_chunk", ["run_id", "phase", "state"]
    )


def _results_by_variant() -> None:
    _set_aside("precomputed_result")
    op.create_table(
        "precomputed_result",
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("output", Json, nullable=False),
        sa.Column("input_hash", sa.String(32), nullable=False),
        sa.Column("variant_version", sa.String(64), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("model", sa.String(128), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("computed_at", sa.Double(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("feature", "variant", "entity_key", name=op.f("pk_precomputed_result")),
    )
    _take_back("precomputed_result", _RESULT)


def _results_by_entity() -> None:
    """Of several variants' results for one entity the newest is kept."""
    op.execute(
        """DELETE FROM precomputed_result WHERE EXISTS (
             SELECT 1 FROM precomputed_result newer
             WHERE newer.feature = precomputed_result.feature
               AND newer.entity_key = precomputed_result.entity_key
               AND (newer.computed_at, newer.variant)
                 > (precomputed_result.computed_at, precomputed_result.variant))"""
    )
    _set_aside("precomputed_result")
    op.create_table(
        "precomputed_result",
        sa.Column("feature", sa.String(128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("output", Json, nullable=False),
        sa.Column("input_hash", sa.String(32), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("variant_version", sa.String(64), nullable=False),
        sa.Column("computed_at", sa.Double(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("feature", "entity_key", name=op.f("pk_precomputed_result")),
    )
    _take_back("precomputed_result", _RESULT)


_RESULT = "feature, entity_key, output, input_hash, variant, variant_version, computed_at, run_id"


def _set_aside(table: str) -> None:
    op.execute(f"CREATE TABLE set_aside AS SELECT * FROM {table}")  # noqa: S608
    op.drop_table(table)


def _take_back(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM set_aside")  # noqa: S608
    op.drop_table("set_aside")
