"""What the edge model service can be told."""

from pydantic import Field

from trivium.settings import Settings


class EdgeSettings(Settings):
    """Everything that the edge model service reads from the environment."""

    edge_threads: int | None = Field(
        None, ge=1, description="Concurrent runs, of one thread each; by default the granted CPUs."
    )
    edge_max_waiting: int = Field(
        64, ge=1, description="Batches that may wait for a run; more are refused with 503."
    )
    edge_max_texts: int = Field(1_024, ge=1, description="Most texts in one request.")
