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
    auth_guesses_per_minute: int = Field(
        20,
        ge=0,
        le=10_000,
        description="Wrong API keys from one address in a minute, after which only keys that the gateway "
        "knows already are taken from there; 0 for no limit.",
    )
    upload_line_bytes: int = Field(1_048_576, ge=1024, description="Longest line of such a body.")
