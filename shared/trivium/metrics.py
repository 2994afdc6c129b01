"""The domain's metrics, one place for their names and labels."""

from prometheus_client import Counter, Gauge, Histogram

# 1 ms to 30 s, in steps of about 1.6: a quantile read off it is within a quarter of the truth.
LATENCY_BUCKETS_S = (
    *(0.001, 0.0015, 0.0025, 0.004, 0.006, 0.01, 0.015, 0.025, 0.04, 0.06),
    *(0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.5, 4.0, 6.0, 10.0, 15.0, 30.0),
)
# Probabilities; finer where most answers are, since a model that is worth serving is mostly sure.
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
_SERVED = ("feature", "variant", "pattern", "outcome")

INFERENCES = Counter(
    "trivium_inferences_total",
    "Answers; outcome is ok, degraded (a fallback answered), generating (a placeholder), control, failed or "
    "left (by the caller).",
    _SERVED,
)
INFERENCE_LATENCY = Histogram(
    "trivium_inference_latency_seconds",
    "From the request to its answer, by who answered.",
    _SERVED,
    buckets=LATENCY_BUCKETS_S,
)
CONFIDENCE = Histogram(
    "trivium_confidence",
    "Confidence of answers that state one, by who answered; control's and placeholders' are not among them.",
    ("feature", "variant"),
    buckets=CONFIDENCE_BUCKETS,
)
STALE_ANSWERS = Counter(
    "trivium_stale_answers_total",
    "Stored results that were served though they were stale, by reason: input, variant, age.",
    ("feature", "variant", "reason"),
)
ATTEMPTS = Counter(
    "trivium_attempts_total",
    "Tries of a step; outcome is ok or the reason of the failure.",
    ("feature", "variant", "pattern", "target", "outcome"),
)
FALLBACKS = Counter(
    "trivium_fallbacks_total",
    "Steps that failed and were passed over, by reason.",
    ("feature", "variant", "pattern", "reason"),
)
BREAKER_STATE = Gauge("trivium_breaker_state", "0 closed, 1 half open, 2 open.", ("target",))
FLAG_EVALUATIONS = Counter(
    "trivium_flag_evaluations_total", "Flag look-ups, by the arm that they gave.", ("flag", "arm")
)
TOKENS = Counter(
    "trivium_tokens_total",
    "Tokens by kind: input (cached_input and cache_write are part of it), output (reasoning is part of it).",
    ("feature", "variant", "model", "kind"),
)
COST_USD = Counter(
    "trivium_cost_usd_total", "Cost of attempts with a known price.", ("feature", "variant", "model")
)
UNPRICED = Counter(
    "trivium_unpriced_attempts_total",
    "Attempts whose price is unknown; their cost is null, not 0.",
    ("feature", "variant", "model"),
)
LIMITS_LOCAL = Counter(
    "trivium_limits_local_total", "Requests admitted by this process's own bound, because Redis was away."
)
LIMITS_REDIS_UP = Gauge("trivium_limits_redis_up", "1 while Redis answers for budgets, limits and the cache.")
BUDGET_USED = Gauge("trivium_budget_used_ratio", "Of a month's budget, 0 to 1 and beyond.", ("bucket",))
BUDGET_LIMIT = Gauge("trivium_budget_limit_usd", "A month's budget in USD.", ("bucket",))
COST_PROJECTED = Gauge(
    "trivium_cost_projected_usd",
    "What this month will have cost: so far, and what is left of it at the pace of the last seven days.",
    ("feature",),
)
CACHE = Counter(
    "trivium_cache_total", "Look-ups of kept answers, by outcome: hit, miss, away.", ("feature", "outcome")
)
TASKS = Gauge("trivium_tasks", "Tasks of the gateway's event loop.")
CHAT_REQUESTS = Counter(
    "trivium_chat_requests_total", "Requests to /v1/chat/completions and /v1/models by status.", ("status",)
)
ROUTES_RELOADED = Counter(
    "trivium_routes_reloaded_total",
    "Times that routes.yaml was read anew, by result: ok, refused.",
    ("result",),
)
CASCADES = Counter(
    "trivium_cascades_total",
    "Abstentions that were handed on by design, by reason.",
    ("feature", "variant", "reason"),
)
CASCADE_SAVED_USD = Counter(
    "trivium_cascade_saved_usd_total",
    "What the next step would have cost for what the first answered, by its mean cost so far.",
    ("feature",),
)
SHADOW_ANSWERS = Counter(
    "trivium_shadow_answers_total",
    "What candidates did beside the served variant: agrees, differs, failed, skipped (as many ran as may).",
    ("feature", "variant", "outcome"),
)
FEEDBACK = Counter("trivium_feedback_total", "Feedback events taken.", ("kind",))
JOURNAL_FILL = Gauge(
    "trivium_journal_fill_ratio", "Of the journal's limit, 0 to 1; records are dropped once it is full."
)
QUEUE_DEPTH = Gauge("trivium_queue_depth", "What waits, by queue: journal, chunks, edge.", ("queue",))
RECORDS_DROPPED = Counter("trivium_records_dropped_total", "Records that the full journal could not take.")
RESULTS_STORED = Counter(
    "trivium_results_stored_total", "Pre-computed results written.", ("feature", "variant")
)
WORKER_SLOTS = Gauge("trivium_worker_slots", "Chunks that this worker takes at once; 0 of other services.")
CHUNKS = Counter(
    "trivium_chunks_total",
    "Chunks worked on, by outcome: done, failed, handed_back, waits (for a vendor's batch), lost.",
    ("feature", "outcome"),
)
CHUNK_SECONDS = Histogram(
    "trivium_chunk_seconds",
    "From a chunk's claim to its end or its being handed back.",
    ("feature", "phase"),
    buckets=LATENCY_BUCKETS_S,
)
RUNS = Gauge(
    "trivium_runs",
    "Runs by state: queued and running now; done, failed and cancelled in the last 24 hours. No refreshes.",
    ("feature", "state"),
)
RUN_SILENT = Gauge(
    "trivium_run_silent_seconds",
    "Since the running run that has been silent longest ended a chunk, or began; 0 while none runs. One that "
    "waits for a vendor's batch is not silent.",
    ("feature",),
)
RESULTS = Gauge("trivium_results", "Stored results.", ("feature", "variant"))
RESULTS_BYTES = Gauge("trivium_results_bytes", "Their size, from a sample.", ("feature", "variant"))
REFRESHES = Counter(
    "trivium_refreshes_total",
    "Results that the gateway asked to be computed anew, by reason.",
    ("feature", "variant", "reason"),
)
EDGE_ITEMS = Counter("trivium_edge_items_total", "Texts run through a model.", ("model", "version"))
EDGE_LATENCY = Histogram(
    "trivium_edge_latency_seconds",
    "From a request's arrival at the edge model to its answer.",
    ("model", "version"),
    buckets=LATENCY_BUCKETS_S,
)
EDGE_REQUESTS = Counter(
    "trivium_edge_requests_total",
    "Inference requests by door (rest, grpc) and status; left: the caller went away.",
    ("door", "status"),
)
EDGE_BATCH = Histogram(
    "trivium_edge_batch_rows", "Rows that ran together.", ("model", "version"), buckets=(1, 2, 3, 4, 6, 8)
)
EDGE_COST_RATIO = Gauge(
    "trivium_edge_cost_ratio",
    "Milliseconds of the latest runs over those of the calibration at start.",
    ("model", "version"),
)
EDGE_WAIT = Gauge("trivium_edge_wait_seconds", "Predicted wait of a request that came now.")
EDGE_SLOTS = Gauge("trivium_edge_slots", "Concurrent runs that the granted CPUs allow.")
MODEL_READY = Gauge("trivium_model_ready", "1 for a model that serves.", ("model", "version"))
GUARD_CHECKS = Counter(
    "trivium_guard_checks_total",
    "Looks of the guard, by what they found: not_running, not_enough, fine, sample_ratio, regression; away: "
    "the database or the flag server was.",
    ("feature", "outcome"),
)
GUARD_ACTIONS = Counter(
    "trivium_guard_actions_total", "What the guard decided: roll_back, hold.", ("feature", "action")
)
GUARD_LAST_LOOK = Gauge(
    "trivium_guard_last_look_timestamp_seconds", "When the guard last looked, in Unix time.", ("feature",)
)
GUARD_LOWER_BOUND = Gauge(
    "trivium_guard_lower_bound",
    "By how much treatment's rate is at least over control's, at all looks at once; over the margin the "
    "guard rolls back. errors, slow, overrides.",
    ("feature", "metric"),
)
DRIFT_SCORE = Gauge(
    "trivium_drift_score",
    "A column's distance to the reference in the last window, in thresholds: over 1 if it has drifted.",
    ("feature", "variant", "column"),
)
DRIFT_DETECTED = Gauge(
    "trivium_drift_detected", "1 if any column of the last window has drifted.", ("feature", "variant")
)
FEATURE_METRIC = Gauge(
    "trivium_feature_metric",
    "The four metrics of the current stage: adoption, override_rate, error_rate (0 to 1), p99_ms.",
    ("feature", "arm", "metric"),
)
FEATURE_GATE = Gauge("trivium_feature_gate", "Their gates, by the manifest.", ("feature", "metric"))
GATE_BROKEN = Gauge(
    "trivium_feature_gate_broken",
    "1 where treatment's whole interval is past the gate.",
    ("feature", "metric"),
)
OVERRIDE_RATE_DAY = Gauge(
    "trivium_override_rate_day",
    "Overridden of the last 24 hours' judged answers, from 30 of them on; `is` is value, or low: the lower "
    "end of its 95 % interval.",
    ("feature", "arm", "is"),
)
ROLLOUT_STAGE = Gauge(
    "trivium_rollout_stage", "1 for a feature's stage, 0 for the others.", ("feature", "stage")
)
RETENTION_DELETED = Counter(
    "trivium_retention_deleted_total", "Rows that had been kept long enough, by table.", ("table",)
)
RETENTION_LAST_SUCCESS = Gauge(
    "trivium_retention_last_success_timestamp_seconds",
    "When all that had been kept long enough was last deleted, in Unix time.",
)
AUTH_REFUSED = Counter(
    "trivium_auth_refused_total", "Requests refused for their key, by reason.", ("reason",)
)
CONNECTIONS_REFUSED = Counter(
    "trivium_connections_refused_total",
    "Connections that the server itself ended, by reason: too_many_connections, head_too_large, "
    "target_too_long, too_many_pipelined, malformed_request, slow_head, slow_body, slow_reader.",
    ("reason",),
)
BUILD_INFO = Gauge("trivium_build_info", "1, with the version that runs.", ("version",))
