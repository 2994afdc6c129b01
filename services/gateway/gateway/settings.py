"""What the gateway can be told."""

from pydantic import Field

from trivium.flag_admin import FlagAdminSettings
from trivium.llm.settings import BackendSettings


class GatewaySettings(FlagAdminSettings, BackendSettings):
    """Everything that the gateway reads from the environment."""

    journal_max_bytes: int = Field(
        268_435_456, ge=1_048_576, description="Largest size of what waits for the database."
    )
    chat_max_body_bytes: int = Field(
        20_971_520, ge=1024, description="Largest body of a chat completion, images as data included."
    )
    upload_max_bytes: int = Field(
        1_073_741_824, ge=1024, description="Largest JSONL body of a run, unpacked."
    )
    upload_line_bytes: int = Field(1_048_576, ge=1024, description="Longest line of such a body.")
