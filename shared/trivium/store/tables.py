"""Every table. Times are UTC Unix seconds in double precision; ids are UUIDv7 as text."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Json = JSON().with_variant(JSONB(), "postgresql")
ID = String(36)
NAME = String(128)
# An entity key is the caller's, and as long as the caller likes.
KEY = Text

api_key = Table(
    "api_key",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

inference = Table(
    "inference",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("arm", String(16), nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("key_id", ID, nullable=False),
    Column("entity_key", KEY),
    Column("input", Json, nullable=False),
    Column("output", Json, nullable=False),
    Column("step", NAME, nullable=False),
    Column("pattern", String(16), nullable=False),
    Column("variant", NAME),
    Column("version", String(64)),
    Column("model", NAME),
    Column("degraded", Boolean, nullable=False),
    Column("fallback_reason", String(32)),
    Column("confidence", Double),
    Column("stale", Boolean, nullable=False),
    Column("stale_reason", String(16)),
    Column("age_s", Double),
    Column("usage", Json),
    Column("cost_usd", Double),
    Column("latency_ms", Double, nullable=False),
    Column("deadline_ms", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "feature", "created_at"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("inference_id", ID, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("step", NAME, nullable=False),
    Column("pattern", String(16), nullable=False),
    Column("variant", NAME),
    Column("version", String(64)),
    Column("target", NAME, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("detail", Text),
    Column("input_tokens", Integer),
    Column("cached_input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cost_usd", Double),
    Column("latency_ms", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "feature", "created_at"),
)

# No foreign key: feedback may come before its inference has been written.
feedback = Table(
    "feedback",
    metadata,
    Column("id", ID, primary_key=True),
    Column("inference_id", ID, nullable=False, index=True),
    Column("key_id", ID, nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("value", Json),
    Column("occurred_at", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    UniqueConstraint("key_id", "idempotency_key"),
)

archive_item = Table(
    "archive_item",
    metadata,
    Column("archive", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("record", Json, nullable=False),
    Column("input_hash", String(32), nullable=False),
    Column("imported_at", Double, nullable=False),
)

archive_embedding = Table(
    "archive_embedding",
    metadata,
    Column("archive", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("model", NAME, primary_key=True),
    Column("input_hash", String(32), nullable=False),
    Column("vector", LargeBinary, nullable=False),
)

precompute_run = Table(
    "precompute_run",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("variant_version", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("entities", Integer, nullable=False),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    CheckConstraint("state in ('running', 'done', 'failed')", name="state"),
    Index(None, "state"),
)

precompute_chunk = Table(
    "precompute_chunk",
    metadata,
    Column("id", ID, primary_key=True),
    Column("run_id", ID, ForeignKey("precompute_run.id"), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("first_key", KEY, nullable=False),
    Column("last_key", KEY, nullable=False),
    Column("size", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("token", Integer, nullable=False),
    Column("lease_until", Double),
    Column("failures", Integer, nullable=False),
    Column("error", Text),
    CheckConstraint("state in ('pending', 'leased', 'done', 'failed')", name="state"),
    Index(None, "run_id", "phase", "state"),
)

precomputed_result = Table(
    "precomputed_result",
    metadata,
    Column("feature", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("output", Json, nullable=False),
    Column("input_hash", String(32), nullable=False),
    Column("variant", NAME, nullable=False),
    Column("variant_version", String(64), nullable=False),
    Column("computed_at", Double, nullable=False),
    Column("run_id", ID, nullable=False),
)
