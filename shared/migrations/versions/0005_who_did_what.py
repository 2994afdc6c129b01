"""An audit log; keys by feature, replaced and last used; traces of runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
ID, NAME = sa.String(36), sa.String(128)

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_key") as table:
        table.add_column(sa.Column("features", Json, nullable=True))
        table.add_column(sa.Column("last_used_at", sa.Double(), nullable=True))
        table.add_column(sa.Column("replaces", ID, nullable=True))
    for name in ("precompute_run", "refresh_request"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("traceparent", sa.String(64), nullable=True))
    op.create_table(
        "audit_event",
        sa.Column("id", ID, nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("detail", Json, nullable=True),
        sa.Column("request_id", NAME, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("outcome in ('done', 'refused', 'failed')", name=op.f("ck_audit_event_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_event")),
    )
    op.create_index(op.f("ix_audit_event_created_at"), "audit_event", ["created_at"])


def downgrade() -> None:
    op.drop_table("audit_event")
    for name in ("refresh_request", "precompute_run"):
        with op.batch_alter_table(name) as table:
            table.drop_column("traceparent")
    with op.batch_alter_table("api_key") as table:
        for column in ("replaces", "last_used_at", "features"):
            table.drop_column(column)
