"""What whoever calls foundation models can be told."""

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from trivium.settings import Settings, StoreSettings


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
        description="Key for the models openai/…, or several with commas between them; without it they are "
        "not configured.",
    )
    openai_api_key_file: Path | None = Field(None, description="Mounted file of them instead, one a line.")
    anthropic_base_url: str = Field(
        "https://api.anthropic.com", description="Base URL for the models anthropic/…."
    )
    anthropic_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("TRIVIUM_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
        description="Keys for the models anthropic/…, likewise.",
    )
    anthropic_api_key_file: Path | None = Field(None, description="Mounted file of them instead, one a line.")
    google_base_url: str = Field(
        "https://generativelanguage.googleapis.com/v1beta", description="Base URL for the models google/…."
    )
    google_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("TRIVIUM_GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"),
        description="Keys for the models google/…, likewise.",
    )
    google_api_key_file: Path | None = Field(None, description="Mounted file of them instead, one a line.")
    routes_file: Path | None = Field(
        None,
        description="The routes, in YAML; read anew when it changes and on SIGHUP. By default routes.yaml in "
        "the features folder, if it is there.",
    )

    @property
    def resolved_routes_file(self) -> Path:
        """The file with the default filled in."""
        return self.routes_file or self.features_dir / "routes.yaml"

    @property
    def resolved_local_base_url(self) -> str:
        """The base URL with the default filled in."""
        return self.local_base_url or f"http://127.0.0.1:{self.port_of('llm')}/v1"


class BackendSettings(ProviderSettings, StoreSettings):
    """Everything that the patterns answer from."""

    source_urls: list[str] = Field(
        [],
        description="URLs and folders below which the sources of runs may lie, those of manifests and those "
        "that a run is started with over HTTP, as JSON: [URL, …].",
    )
