"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_key_sha256")),
    )
    op.create_table(
        "archive_embedding",
        sa.Column("archive", sa.String(length=128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("input_hash", sa.String(length=32), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("archive", "entity_key", "model", name=op.f("pk_archive_embedding")),
    )
    op.create_table(
        "archive_item",
        sa.Column("archive", sa.String(length=128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("record", Json, nullable=False),
        sa.Column("input_hash", sa.String(length=32), nullable=False),
        sa.Column("imported_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("archive", "entity_key", name=op.f("pk_archive_item")),
    )
    op.create_table(
        "attempt",
        sa.Column("inference_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("feature", sa.String(length=128), nullable=False),
        sa.Column("step", sa.String(length=128), nullable=False),
        sa.Column("pattern", sa.String(length=16), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("inference_id", "number", name=op.f("pk_attempt")),
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_attempt_feature_created_at"), ["feature", "created_at"], unique=False
        )

    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("inference_id", sa.String(length=36), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", Json, nullable=True),
        sa.Column("occurred_at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("key_id", "idempotency_key", name=op.f("uq_feedback_key_id_idempotency_key")),
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_feedback_inference_id"), ["inference_id"], unique=False)

    op.create_table(
        "inference",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("feature", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=True),
        sa.Column("input", Json, nullable=False),
        sa.Column("output", Json, nullable=False),
        sa.Column("step", sa.String(length=128), nullable=False),
        sa.Column("pattern", sa.String(length=16), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.Column("degraded", sa.Boolean(), nullable=False),
        sa.Column("fallback_reason", sa.String(length=32), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("stale_reason", sa.String(length=16), nullable=True),
        sa.Column("age_s", sa.Double(), nullable=True),
        sa.Column("usage", Json, nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("deadline_ms", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inference")),
    )
    with op.batch_alter_table("inference", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_inference_feature_created_at"), ["feature", "created_at"], unique=False
        )

    op.create_table(
        "precompute_run",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("feature", sa.String(length=128), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("variant_version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("entities", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint("state in ('running', 'done', 'failed')", name=op.f("ck_precompute_run_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_precompute_run")),
    )
    with op.batch_alter_table("precompute_run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_precompute_run_state"), ["state"], unique=False)

    op.create_table(
        "precomputed_result",
        sa.Column("feature", sa.String(length=128), nullable=False),
        sa.Column("entity_key", sa.Text(), nullable=False),
        sa.Column("output", Json, nullable=False),
        sa.Column("input_hash", sa.String(length=32), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("variant_version", sa.String(length=64), nullable=False),
        sa.Column("computed_at", sa.Double(), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("feature", "entity_key", name=op.f("pk_precomputed_result")),
    )
    op.create_table(
        "precompute_chunk",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("first_key", sa.Text(), nullable=False),
        sa.Column("last_key", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
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
    with op.batch_alter_table("precompute_chunk", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_precompute_chunk_run_id_phase_state"), ["run_id", "phase", "state"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("precompute_chunk", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_precompute_chunk_run_id_phase_state"))

    op.drop_table("precompute_chunk")
    op.drop_table("precomputed_result")
    with op.batch_alter_table("precompute_run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_precompute_run_state"))

    op.drop_table("precompute_run")
    with op.batch_alter_table("inference", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_inference_feature_created_at"))

    op.drop_table("inference")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_inference_id"))

    op.drop_table("feedback")
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempt_feature_created_at"))

    op.drop_table("attempt")
    op.drop_table("archive_item")
    op.drop_table("archive_embedding")
    op.drop_table("api_key")
