"""Limits of keys; attempts by key and with every class of token; payloads that need not be kept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_key") as table:
        table.add_column(sa.Column("requests_per_minute", sa.Integer(), nullable=True))
        table.add_column(sa.Column("tokens_per_minute", sa.Integer(), nullable=True))
        table.add_column(sa.Column("monthly_usd", sa.Double(), nullable=True))
    with op.batch_alter_table("attempt") as table:
        table.add_column(sa.Column("key_id", sa.String(36), nullable=True))
        table.add_column(sa.Column("cache_write_tokens", sa.Integer(), nullable=True))
        table.add_column(sa.Column("reasoning_tokens", sa.Integer(), nullable=True))
        table.create_index(op.f("ix_attempt_key_id_created_at"), ["key_id", "created_at"])
    with op.batch_alter_table("inference") as table:
        table.add_column(sa.Column("input_hash", sa.String(32), nullable=True))
        table.add_column(sa.Column("cached", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.alter_column("input", existing_type=Json, nullable=True)
        table.alter_column("output", existing_type=Json, nullable=True)


def downgrade() -> None:
    op.execute("update inference set input = '{}' where input is null")
    op.execute("update inference set output = '{}' where output is null")
    with op.batch_alter_table("inference") as table:
        table.alter_column("output", existing_type=Json, nullable=False)
        table.alter_column("input", existing_type=Json, nullable=False)
        table.drop_column("cached")
        table.drop_column("input_hash")
    with op.batch_alter_table("attempt") as table:
        table.drop_index(op.f("ix_attempt_key_id_created_at"))
        table.drop_column("reasoning_tokens")
        table.drop_column("cache_write_tokens")
        table.drop_column("key_id")
    with op.batch_alter_table("api_key") as table:
        table.drop_column("monthly_usd")
        table.drop_column("tokens_per_minute")
        table.drop_column("requests_per_minute")
