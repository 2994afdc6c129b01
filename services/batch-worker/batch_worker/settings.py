"""What the worker can be told."""

from pydantic import Field

from trivium.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """Everything that the worker reads from the environment."""

    worker_slots: int = Field(2, ge=1, le=64, description="Chunks that are worked on at once.")
    worker_lease_s: float = Field(
        30.0, ge=2, description="Seconds until a chunk of a dead worker is given to another."
    )
    worker_ring_s: float = Field(
        0.5, gt=0, description="Seconds between looks at what Redis has not been told or forgot."
    )
