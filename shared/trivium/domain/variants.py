"""The variants of a manifest: the ways in which a feature can be answered."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
_MODEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.:-]*)?$"


class Strict(BaseModel):
    """A part of a manifest: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Variant(Strict):
    timeout_ms: int | None = Field(
        None, gt=0, description="Longest share of the deadline; by default an equal one."
    )


class ApiVariant(_Variant):
    """A foundation model, called in the request."""

    pattern: Literal["api"]
    prompt: str = Field(description="Path of the prompt, from the manifest's folder.")
    models: list[Annotated[str, Field(pattern=_MODEL)]] = Field(
        min_length=1, description="provider/model or route/name, in the order they are tried."
    )
    response_schema: str | None = Field(
        None, description="Path of the JSON Schema that decoding is held to; by default `output`."
    )
    temperature: float = Field(0.0, ge=0, le=2)
    max_output_tokens: int = Field(256, gt=0)
    retries: int = Field(1, ge=0, le=3, description="Further tries of the same model.")
    cache_s: int | None = Field(
        None, gt=0, le=2_592_000, description="Keep answers, for the same key, version and input."
    )


class EdgeVariant(_Variant):
    """A small model of our own, on the edge model service."""

    pattern: Literal["edge"]
    model: str = Field(pattern=_MODEL, description="name, or name/version to pin one.")
    text_field: str = Field("text", description="Input property that the model reads.")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Below it the variant abstains.")
    min_in_scope: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The variant abstains when the model's `in_scope` is below it; 0.5 is the threshold "
        "that was chosen at training, 0 turns it off.",
    )
    cascade: bool = Field(
        False,
        description="What it abstains on is for the next step by design: that answer is not degraded.",
    )


class Neighbours(Strict):
    """Nearest neighbours by the cosine of an edge model's embeddings."""

    model: str = Field(pattern=_MODEL)
    text_field: str = "text"
    k: int = Field(5, ge=1, le=100)


class Compute(Strict):
    """How a result comes about: by exactly one of these."""

    neighbours: Neighbours | None = None
    variants: list[Name] | None = Field(
        None, min_length=1, description="Edge and api variants of this feature; the first that can, answers."
    )
    batch_api: bool = Field(
        False,
        description="Ask the first variant's first model through its vendor's batch API, at half price.",
    )
    template: dict[str, Any] | None = Field(
        None,
        description="The output itself, with values of the record: `{$input: field}`. For results that were "
        "computed elsewhere.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [n for n in ("neighbours", "variants", "template") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of neighbours, variants, template, not {' and '.join(given) or 'none'}"
            )
        if self.batch_api and not self.variants:
            raise ValueError("batch_api goes with variants")
        return self


class SqlSource(Strict):
    """A query on a database that the operator has configured."""

    sql: str = Field(description="A SELECT; its column `key_field` must be unique and sortable.")
    connection: Name = Field(description="Name of the connection in TRIVIUM_SOURCE_CONNECTIONS.")


def _is_cron(value: str) -> str:
    try:
        next(CronSim(value, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"not a cron expression: {error}") from error
    except StopIteration:
        raise ValueError("never comes about") from None
    return value


Cron = Annotated[str, AfterValidator(_is_cron), Field(description="When: five fields, in UTC.")]


class Schedule(Strict):
    """When a run starts by itself."""

    cron: Cron
    overlap: Literal["skip", "queue"] = Field(
        "skip", description="What becomes of a run that is due while another runs."
    )


class PrecomputedVariant(_Variant):
    """Results that the worker stored ahead of the request."""

    pattern: Literal["precomputed"]
    archive: Name = Field(description="The imported records; each is an entity.")
    source: str | SqlSource | None = Field(
        None,
        description="Where the records come from: a file from the manifest's folder, a URL for fsspec, "
        "or a query. A file fills an empty archive at the first start.",
    )
    key_field: str = Field("id", description="Field of a record that is its entity_key.")
    compute: Compute
    chunk_rows: int = Field(1_024, ge=1, le=10_000, description="Entities that a worker takes at once.")
    max_error_ratio: float = Field(
        0.2, ge=0, le=1, description="A run stops itself above it, from 20 failed entities on."
    )
    max_cost_usd: float | None = Field(None, gt=0, description="A run stops itself beyond it.")
    schedule: Schedule | None = None
    max_age_s: int = Field(86_400, gt=0, description="Older results are stale.")
    hard_max_age_s: int = Field(604_800, gt=0, description="Older results are not served.")


# What says when and how a result is made, but not which it is. It is no part of a variant's version.
HANDLING = ("cascade", "cache_s")
OPERATION = (
    *("source", "chunk_rows", "max_error_ratio", "max_cost_usd", "schedule"),
    *("max_age_s", "hard_max_age_s", "timeout_ms"),
)
Variant = Annotated[ApiVariant | EdgeVariant | PrecomputedVariant, Field(discriminator="pattern")]
