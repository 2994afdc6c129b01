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
    false,
    text,
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
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("monthly_usd", Double),
    # Names of features; null: all of them.
    Column("features", Json),
    Column("last_used_at", Double),
    Column("replaces", ID),
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
    # Null where the feature's recording keeps no payload.
    Column("input", Json),
    Column("output", Json),
    Column("input_hash", String(32)),
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
    # generating: the answer so far is a placeholder, and the worker is asked for the real one.
    Column("status", String(16), nullable=False, server_default="done"),
    Column("cached", Boolean, nullable=False, server_default=false()),
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
    Column("cache_write_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cost_usd", Double),
    Column("latency_ms", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("key_id", ID),
    Index(None, "feature", "created_at"),
    Index(None, "key_id", "created_at"),
)

# Feedback whose distance is to be filled in. As text, for an index serves only where a query says the same.
NO_DISTANCE = "feedback.edit_distance IS NULL AND feedback.kind IN ('edited', 'correction')"
_NO_DISTANCE = text(NO_DISTANCE.replace("feedback.", ""))

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
    # How far an edit or a correction is from what was answered, 0 to 1; null until that is known.
    Column("edit_distance", Double),
    Column("occurred_at", Double, nullable=False),
    Column("received_at", Double, nullable=False, index=True),
    UniqueConstraint("key_id", "idempotency_key"),
    Index(
        "ix_feedback_no_distance",
        "received_at",
        "id",
        sqlite_where=_NO_DISTANCE,
        postgresql_where=_NO_DISTANCE,
    ),
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

# `run_id` is the run that embedded it last.
archive_embedding = Table(
    "archive_embedding",
    metadata,
    Column("archive", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("model", NAME, primary_key=True),
    Column("input_hash", String(32), nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("run_id", ID),
)

# The counts are filled in when a run ends; until then its chunks have them.
precompute_run = Table(
    "precompute_run",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("variant_version", String(64), nullable=False),
    Column("trigger", String(16), nullable=False),
    Column("source", Json, nullable=False),
    Column("idempotency_key", String(255)),
    Column("key_id", ID),
    Column("state", String(24), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("force", Boolean, nullable=False),
    Column("max_error_ratio", Double, nullable=False),
    Column("max_cost_usd", Double),
    Column("line_errors", Json, nullable=False),
    Column("bad_lines", Integer, nullable=False),
    Column("total", Integer),
    Column("computed", Integer),
    Column("unchanged", Integer),
    Column("abstained", Integer),
    Column("failed", Integer),
    Column("gone", Integer),
    Column("cost_usd", Double),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    # W3C trace context of who asked for it.
    Column("traceparent", String(64)),
    UniqueConstraint("feature", "idempotency_key"),
    CheckConstraint(
        "state in ('queued', 'running', 'done', 'done_with_errors', 'failed', 'cancelled')", name="state"
    ),
    Index(None, "state"),
    Index(None, "feature", "created_at"),
)

# `entity_keys` are those that it covers; a chunk that was bisected is `split`; its halves stand beside it.
precompute_chunk = Table(
    "precompute_chunk",
    metadata,
    Column("id", ID, primary_key=True),
    Column("run_id", ID, ForeignKey("precompute_run.id"), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("position", Integer, nullable=False),
    Column("entity_keys", Json, nullable=False),
    Column("size", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("token", Integer, nullable=False),
    Column("lease_until", Double),
    Column("not_before", Double),
    Column("worker", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("cursor", Json),
    Column("computed", Integer, nullable=False),
    Column("unchanged", Integer, nullable=False),
    Column("abstained", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("gone", Integer, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("error", Text),
    Column("finished_at", Double),
    CheckConstraint("state in ('pending', 'leased', 'done', 'split', 'cancelled')", name="state"),
    Index(None, "run_id", "phase", "state"),
    Index(None, "run_id", "finished_at"),
)

precomputed_result = Table(
    "precomputed_result",
    metadata,
    Column("feature", NAME, primary_key=True),
    Column("variant", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("output", Json, nullable=False),
    Column("input_hash", String(32), nullable=False),
    Column("variant_version", String(64), nullable=False),
    Column("confidence", Double),
    Column("model", NAME),
    Column("cost_usd", Double),
    Column("computed_at", Double, nullable=False),
    Column("run_id", ID, nullable=False),
)

# An entity that a run could not compute, and why. An abstention is no error.
dead_item = Table(
    "dead_item",
    metadata,
    Column("run_id", ID, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("variant_version", String(64), nullable=False),
    Column("input_hash", String(32)),
    Column("code", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("abstained", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("replayed_in", ID),
    Index(None, "feature", "created_at"),
)

# A result that is to be computed anew, at most one request an entity; it goes when that is done.
refresh_request = Table(
    "refresh_request",
    metadata,
    Column("feature", NAME, primary_key=True),
    Column("variant", NAME, primary_key=True),
    Column("entity_key", KEY, primary_key=True),
    Column("reason", String(16), nullable=False),
    Column("record", Json),
    Column("requested_at", Double, nullable=False),
    Column("run_id", ID, index=True),
    Column("traceparent", String(64)),
)

# An evaluation of one version of a variant on one version of a dataset.
evaluation = Table(
    "evaluation",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("version", String(64), nullable=False),
    Column("pattern", String(16), nullable=False),
    Column("dataset", Text, nullable=False),
    Column("dataset_sha256", String(64), nullable=False),
    Column("evaluators_sha256", String(64), nullable=False),
    Column("cases", Integer, nullable=False),
    Column("repeats", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("gates", Json, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("cost_usd", Double),
    Column("p50_ms", Double),
    Column("p99_ms", Double),
    Column("created_at", Double, nullable=False),
    Index(None, "feature", "variant", "version"),
)

evaluation_case = Table(
    "evaluation_case",
    metadata,
    Column("evaluation_id", ID, ForeignKey("evaluation.id"), primary_key=True),
    Column("case_id", NAME, primary_key=True),
    Column("repeat", Integer, primary_key=True),
    Column("output", Json),
    Column("scores", Json, nullable=False),
    # Why there is nothing to score; a degraded answer is one such reason.
    Column("failure", Text),
    Column("confidence", Double),
    Column("latency_ms", Double, nullable=False),
    Column("cost_usd", Double),
)

# What moved a feature from stage to stage, or kept it there, with the figures it was decided on.
decision = Table(
    "decision",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("action", String(16), nullable=False),
    Column("from_stage", String(16), nullable=False),
    Column("to_stage", String(16), nullable=False),
    Column("variant", NAME, nullable=False),
    Column("version", String(64), nullable=False),
    Column("decided_by", NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("overridden", Boolean, nullable=False),
    Column("figures", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("action in ('advance', 'hold', 'roll_back')", name="action"),
    Index(None, "feature", "created_at"),
)

# What a candidate would have answered beside the served variant; nobody has seen it.
shadow_answer = Table(
    "shadow_answer",
    metadata,
    Column("id", ID, primary_key=True),
    Column("inference_id", ID, nullable=False, index=True),
    Column("feature", NAME, nullable=False),
    Column("served_variant", NAME),
    Column("served_version", String(64)),
    Column("variant", NAME, nullable=False),
    Column("version", String(64), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("output", Json),
    Column("agrees", Boolean),
    Column("confidence", Double),
    Column("latency_ms", Double, nullable=False),
    Column("cost_usd", Double),
    Column("created_at", Double, nullable=False),
    Index(None, "feature", "created_at"),
)

# A person's verdict on what users said of one input: what the right output is, or that it teaches nothing.
review = Table(
    "review",
    metadata,
    Column("feature", NAME, primary_key=True),
    Column("input_hash", String(32), primary_key=True),
    Column("verdict", String(16), nullable=False),
    Column("output", Json),
    Column("decided_by", NAME, nullable=False),
    Column("reason", Text),
    Column("created_at", Double, nullable=False),
    CheckConstraint("verdict in ('accept', 'amend', 'drop')", name="verdict"),
)

# What a feature's traffic looked like when it was right; drift is measured from it.
drift_reference = Table(
    "drift_reference",
    metadata,
    Column("feature", NAME, primary_key=True),
    Column("variant", NAME, primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("source", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("data", Json, nullable=False),
    Column("created_at", Double, nullable=False),
)

drift_report = Table(
    "drift_report",
    metadata,
    Column("id", ID, primary_key=True),
    Column("feature", NAME, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("version", String(64), nullable=False),
    Column("window_from", Double, nullable=False),
    Column("window_until", Double, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("columns", Json, nullable=False),
    Column("drifted", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "feature", "created_at"),
)

# Work that one worker does for all: who does it, and until when, by the database's clock.
lease = Table(
    "lease",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("until", Double, nullable=False),
)

# Every administrative act: who did what to what, and whether it was done.
audit_event = Table(
    "audit_event",
    metadata,
    Column("id", ID, primary_key=True),
    Column("actor", NAME, nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("detail", Json),
    Column("request_id", NAME),
    Column("created_at", Double, nullable=False, index=True),
    CheckConstraint("outcome in ('done', 'refused', 'failed')", name="outcome"),
)
