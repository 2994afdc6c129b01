"""Feedback by its arrival, for retention; by itself, because it is built outside a transaction."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Concurrently, because a plain index would hold back the gateways that write on. What an earlier
    # attempt left behind when it was cut short is invalid.
    with op.get_context().autocommit_block():
        op.drop_index("ix_feedback_received_at", "feedback", if_exists=True, postgresql_concurrently=True)
        op.create_index("ix_feedback_received_at", "feedback", ["received_at"], postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("ix_feedback_received_at", "feedback")
