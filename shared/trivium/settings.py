"""What every service can be told, by environment variables that start with `TRIVIUM_`."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from trivium.errors import ConfigurationError

DEFAULT_SERVICE_KEY = "development-service-key"
SERVICE_KEY_FILE = "service.key"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """Shared by the gateway, the worker, the edge model and the command line."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_", env_ignore_empty=True, extra="ignore")

    environment: Literal["development", "staging", "production"] = Field(
        "development", description="Outside development a default secret refuses to start."
    )
    state_dir: Path = Field(
        Path(".trivium"), description="Folder of everything that is written on this machine."
    )
    features_dir: Path = Field(
        Path("features"), description="Folder of the features' manifests, prompts and datasets."
    )
    models_dir: Path = Field(
        Path("models"), description="Folder of the edge models: <name>/<version>/model.onnx."
    )
    service_key: SecretStr = Field(
        SecretStr(DEFAULT_SERVICE_KEY),
        description="Secret by which services call each other, and Prometheus calls /metrics.",
    )
    host: str = Field("127.0.0.1", description="Address that a service listens on.")
    port_offset: int = Field(
        0, ge=0, le=50_000, description="Added to every port, so that two platforms can run at once."
    )
    gateway_port: int = Field(8080, ge=1, le=65_535, description="Port of the gateway.")
    edge_port: int = Field(8081, ge=1, le=65_535, description="Port of the edge model.")
    edge_grpc_port: int = Field(8082, ge=1, le=65_535, description="Port of the edge model's gRPC.")
    llm_port: int = Field(8083, ge=1, le=65_535, description="Port of the self-hosted model.")
    worker_port: int = Field(8084, ge=1, le=65_535, description="Port of the batch worker.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or lines for people."
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body that a service reads.")
    keep_alive_s: int = Field(
        75,
        ge=1,
        description="Seconds that a connection without a request is kept; more than whatever calls keeps its "
        "own, or a request meets a connection that is just being closed.",
    )
    max_connections: int = Field(
        2_000, ge=8, description="Open connections beyond which a service answers 503, but for health probes."
    )
    max_head_bytes: int = Field(
        32_768, ge=4_096, description="Largest head of a request: path, query and headers."
    )
    head_timeout_s: float = Field(10.0, gt=0, description="Seconds that a request's head may take to come.")
    body_stall_s: float = Field(
        20.0, gt=0, description="Seconds in each of which a body must bring 1 KiB, or end."
    )
    write_stall_s: float = Field(
        30.0, gt=0, description="Seconds after which a caller is cut off that does not read its answer."
    )

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Self:
        if self.environment != "development" and self.service_key.get_secret_value() == DEFAULT_SERVICE_KEY:
            raise ConfigurationError(
                f"TRIVIUM_SERVICE_KEY is the development default; set a secret of your own in "
                f"{self.environment}"
            )
        return self

    def port_of(self, service: str) -> int:
        """The port of gateway, edge, edge_grpc, llm or worker, with the offset added."""
        port: int = getattr(self, f"{service}_port")
        return port + self.port_offset


class StoreSettings(Settings):
    """For whatever reads or writes the database and rings the worker."""

    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL, postgresql+asyncpg://… or sqlite+aiosqlite:///…; "
        "by default trivium.db in the state folder.",
    )
    redis_url: str | None = Field(
        None,
        description="redis://, rediss:// or unix:// URL of Redis or Valkey; "
        "by default the embedded server's socket in the state folder.",
    )
    edge_url: str | None = Field(
        None, description="Address of the edge model service; by default on this machine."
    )

    @property
    def resolved_database_url(self) -> str:
        """The URL with the default filled in and an asynchronous driver named."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.state_dir.resolve() / 'trivium.db'}"
        for short, driver in (
            ("postgresql://", "postgresql+asyncpg://"),
            ("postgres://", "postgresql+asyncpg://"),
            ("sqlite://", "sqlite+aiosqlite://"),
        ):
            if self.database_url.startswith(short):
                return driver + self.database_url.removeprefix(short)
        return self.database_url

    @property
    def resolved_redis_url(self) -> str:
        """The URL with the default filled in."""
        return self.redis_url or f"unix://{self.state_dir.resolve() / 'valkey.sock'}"

    def with_key_of_up(self) -> Self:
        """On this machine, without a key of its own, with the one that `trivium up` made for its services."""
        made = self.state_dir / SERVICE_KEY_FILE
        here = urlsplit(self.resolved_edge_url).hostname in LOOPBACK
        if "service_key" in self.model_fields_set or not here or not made.is_file():
            return self
        return self.model_copy(update={"service_key": SecretStr(made.read_text("utf-8").strip())})

    @property
    def resolved_edge_url(self) -> str:
        """The address with the default filled in."""
        return self.edge_url or f"http://127.0.0.1:{self.port_of('edge')}"
