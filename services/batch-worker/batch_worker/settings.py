"""What the worker can be told."""

from pydantic import Field, SecretStr

from trivium.flag_admin import FlagAdminSettings
from trivium.llm.settings import BackendSettings
from trivium.retention.settings import RetentionSettings


class WorkerSettings(FlagAdminSettings, BackendSettings, RetentionSettings):
    """Everything that the worker reads from the environment."""

    worker_slots: int = Field(2, ge=1, le=64, description="Chunks that are worked on at once.")
    worker_lease_s: float = Field(
        15.0, ge=1, description="Seconds until a chunk of a dead worker is given to another."
    )
    worker_ring_s: float = Field(
        0.5, gt=0, description="Seconds between looks at what Redis has not been told or forgot."
    )
    worker_grace_s: float = Field(
        8.0,
        ge=0,
        description="Seconds in which a worker that ends may finish its chunks; then it hands them back.",
    )
    worker_api_at_once: int = Field(
        4, ge=1, le=256, description="Calls of foundation models that one chunk makes at once."
    )
    worker_batch_poll_s: float = Field(60.0, gt=0, description="Seconds between looks at a vendor's batch.")
    guard_interval_s: float = Field(
        30.0, ge=1, description="Seconds between the guard's looks at the rollouts."
    )
    source_connections: dict[str, SecretStr] = Field(
        {}, description="Databases that sources may query, as JSON: {name: SQLAlchemy URL}."
    )
