"""What the edge model service can be told."""

from typing import Literal

from pydantic import Field

from trivium.settings import Settings


class EdgeSettings(Settings):
    """Everything that the edge model service reads from the environment."""

    models_url: str | None = Field(
        None,
        description="Registry of edge models, any URL that fsspec opens (s3://, https://, "
        "simplecache::s3://…); by default the folder of TRIVIUM_MODELS_DIR.",
    )
    edge_poll_s: float = Field(
        10.0, gt=0, description="Seconds between two looks for new versions in the registry."
    )
    edge_slots: int | None = Field(
        None, ge=1, description="Concurrent runs; by default as many as the granted CPUs allow."
    )
    edge_threads_per_run: int = Field(
        1, ge=1, description="Threads of one run; runs at once times threads stay within the granted CPUs."
    )
    edge_max_queue_ms: float = Field(
        50.0, gt=0, description="Predicted wait, in milliseconds, beyond which requests are refused."
    )
    edge_batching: Literal["exact", "always"] = Field(
        "exact",
        description="exact: rows share a run only where that changes no answer; always: more throughput, "
        "and an int8 model's answers depend a little on what else is asked.",
    )
    edge_max_rows: int = Field(1_024, ge=1, description="Most texts or rows in one request.")
    edge_max_characters: int = Field(
        20_000, ge=1, description="Longest text; what is longer is refused with 413."
    )
    edge_stuck_s: float = Field(
        30.0, gt=0, description="Seconds without a slot's heartbeat after which liveness fails."
    )
