"""What whoever calls foundation models can be told."""

from pydantic import AliasChoices, Field, SecretStr

from trivium.settings import Settings


class ProviderSettings(Settings):
    """Addresses and keys of the providers."""

    local_base_url: str | None = Field(
        None, description="OpenAI-compatible base URL of the self-hosted models, local/…."
    )
    local_usd_per_million_tokens: float | None = Field(
        0.0, ge=0, description="What self-hosted tokens cost you: no vendor bills them."
    )
    openai_base_url: str = Field("https://api.openai.com/v1", description="Base URL for the models openai/….")
    openai_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("TRIVIUM_OPENAI_API_KEY", "OPENAI_API_KEY"),
        description="Key for the models openai/…; without it they are not configured.",
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com", description="Base URL for the models anthropic/…."
    )
    anthropic_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("TRIVIUM_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
        description="Key for the models anthropic/…; without it they are not configured.",
    )

    @property
    def resolved_local_base_url(self) -> str:
        """The base URL with the default filled in."""
        return self.local_base_url or f"http://127.0.0.1:{self.port_of('llm')}/v1"
