"""What the gateway can be told."""

from pydantic import Field

from trivium.flags import FlagSettings
from trivium.llm.settings import ProviderSettings
from trivium.settings import StoreSettings


class GatewaySettings(FlagSettings, ProviderSettings, StoreSettings):
    """Everything that the gateway reads from the environment."""

    journal_max_bytes: int = Field(
        268_435_456, ge=1_048_576, description="Largest size of what waits for the database."
    )
    upload_max_bytes: int = Field(
        1_073_741_824, ge=1024, description="Largest JSONL body of a run, unpacked."
    )
    source_urls: list[str] = Field(
        [], description="Beginnings of the URLs that a run may be started from over HTTP, as JSON: [URL, …]."
    )
    upload_line_bytes: int = Field(1_048_576, ge=1024, description="Longest line of such a body.")
