"""Evaluations, decisions, shadow answers, reviews and drift; how far a correction is from the answer."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
ID, NAME = sa.String(36), sa.String(128)

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("feedback") as table:
        table.add_column(sa.Column("edit_distance", sa.Double(), nullable=True))
    no_distance = sa.text("edit_distance IS NULL AND kind IN ('edited', 'correction')")
    op.create_index(
        "ix_feedback_no_distance",
        "feedback",
        ["received_at", "id"],
        sqlite_where=no_distance,
        postgresql_where=no_distance,
    )
    op.create_table(
        "evaluation",
        sa.Column("id", ID, nullable=False),
        sa.Column("feature", NAME, nullable=False),
        sa.Column("variant", NAME, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("pattern", sa.String(16), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("dataset_sha256", sa.String(64), nullable=False),
        sa.Column("evaluators_sha256", sa.String(64), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("gates", Json, nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("cost_usd", sa.Double()),
        sa.Column("p50_ms", sa.Double()),
        sa.Column("p99_ms", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
    )
    op.create_index(
        op.f("ix_evaluation_feature_variant_version"), "evaluation", ["feature", "variant", "version"]
    )
    op.create_table(
        "evaluation_case",
        sa.Column("evaluation_id", ID, nullable=False),
        sa.Column("case_id", NAME, nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("output", Json),
        sa.Column("scores", Json, nullable=False),
        sa.Column("failure", sa.Text()),
        sa.Column("confidence", sa.Double()),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("cost_usd", sa.Double()),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.id"], name=op.f("fk_evaluation_case_evaluation_id")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "case_id", "repeat", name=op.f("pk_evaluation_case")),
    )
    op.create_table(
        "decision",
        sa.Column("id", ID, nullable=False),
        sa.Column("feature", NAME, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("from_stage", sa.String(16), nullable=False),
        sa.Column("to_stage", sa.String(16), nullable=False),
        sa.Column("variant", NAME, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("decided_by", NAME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("overridden", sa.Boolean(), nullable=False),
        sa.Column("figures", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("action in ('advance', 'hold', 'roll_back')", name=op.f("ck_decision_action")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
    )
    op.create_index(op.f("ix_decision_feature_created_at"), "decision", ["feature", "created_at"])
    op.create_table(
        "shadow_answer",
        sa.Column("id", ID, nullable=False),
        sa.Column("inference_id", ID, nullable=False),
        sa.Column("feature", NAME, nullable=False),
        sa.Column("served_variant", NAME),
        sa.Column("served_version", sa.String(64)),
        sa.Column("variant", NAME, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("output", Json),
        sa.Column("agrees", sa.Boolean()),
        sa.Column("confidence", sa.Double()),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("cost_usd", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_answer")),
    )
    op.create_index(op.f("ix_shadow_answer_inference_id"), "shadow_answer", ["inference_id"])
    op.create_index(op.f("ix_shadow_answer_feature_created_at"), "shadow_answer", ["feature", "created_at"])
    op.create_table(
        "review",
        sa.Column("feature", NAME, nullable=False),
        sa.Column("input_hash", sa.String(32), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("output", Json),
        sa.Column("decided_by", NAME, nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("verdict in ('accept', 'amend', 'drop')", name=op.f("ck_review_verdict")),
        sa.PrimaryKeyConstraint("feature", "input_hash", name=op.f("pk_review")),
    )
    op.create_table(
        "drift_reference",
        sa.Column("feature", NAME, nullable=False),
        sa.Column("variant", NAME, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("feature", "variant", "version", name=op.f("pk_drift_reference")),
    )
    op.create_table(
        "drift_report",
        sa.Column("id", ID, nullable=False),
        sa.Column("feature", NAME, nullable=False),
        sa.Column("variant", NAME, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("window_from", sa.Double(), nullable=False),
        sa.Column("window_until", sa.Double(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", Json, nullable=False),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_report")),
    )
    op.create_index(op.f("ix_drift_report_feature_created_at"), "drift_report", ["feature", "created_at"])
    op.create_table(
        "lease",
        sa.Column("name", NAME, nullable=False),
        sa.Column("holder", NAME, nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )


def downgrade() -> None:
    for table in (
        *("lease", "drift_report", "drift_reference", "review", "shadow_answer", "decision"),
        *("evaluation_case", "evaluation"),
    ):
        op.drop_table(table)
    op.drop_index("ix_feedback_no_distance", "feedback")
    with op.batch_alter_table("feedback") as table:
        table.drop_column("edit_distance")
