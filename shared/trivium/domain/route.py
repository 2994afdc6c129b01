"""Routes: `routes.yaml`, which says what models answer under a name, and how they are asked."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trivium.errors import ManifestError
from trivium.located_yaml import NotYaml, load_located

Vendor = Literal["openai", "anthropic", "google", "local"]
Rescue = Literal["restart", "buffer", "error"]
PREFIX = "route/"
_NAME = r"^(route/)?[a-z0-9][a-z0-9._-]{0,62}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Timeouts(_Strict):
    """Seconds that one call to a target may take; never more than its share of the request's deadline."""

    connect_s: float = Field(2.0, gt=0, le=60)
    first_token_s: float = Field(20.0, gt=0, le=600, description="Of a stream, to its first token.")
    idle_s: float = Field(10.0, gt=0, le=600, description="Of a stream, between two tokens.")
    total_s: float = Field(60.0, gt=0, le=3600)


class TargetPrice(_Strict):
    """USD for a million tokens, where the table of prices does not know the model, or you pay otherwise."""

    input_usd: float = Field(ge=0)
    output_usd: float = Field(ge=0)
    cached_input_usd: float | None = Field(None, ge=0)


class Target(_Strict):
    """One model at one provider."""

    provider: Vendor = Field(
        description="Whose wire it speaks: openai (and every server compatible with it), anthropic, google, "
        "or local, the self-hosted model of this platform."
    )
    model: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="The provider's name of the model; by default the name that was asked for.",
    )
    base_url: str | None = Field(
        None, pattern=r"^https?://[^\s/]", description="Where, if not at the provider's own address."
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the key, or several with commas between them; by default the "
        "provider's.",
    )
    api_key_file: str | None = Field(None, description="Mounted file with the keys instead, one a line.")
    weight: float = Field(1.0, gt=0, le=1e6, description="Its share, where the route's order is weighted.")
    timeouts: Timeouts = Timeouts()
    retries: int = Field(1, ge=0, le=3, description="Further tries of the same target.")
    price: TargetPrice | None = None
    context_tokens: int | None = Field(
        None, gt=0, description="What fits in: after an overflow, only a target with more is asked."
    )
    max_concurrency: int | None = Field(None, gt=0, description="Calls that may be under way at once.")
    max_wait_s: float = Field(1.0, ge=0, le=60, description="What a call waits for another to end.")
    continues_prefix: bool = Field(
        False, description="It goes on where a last message of the assistant stops: a cut stream is finished."
    )

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("give api_key_env or api_key_file, not both")
        return self

    def model_for(self, asked: str) -> str:
        """The provider's name of the model, when `asked` was asked for."""
        return self.model or asked

    def name_for(self, asked: str) -> str:
        """`provider/model`, as breakers, metrics and the ledger call it; with the host if it is another."""
        where = f"@{self.base_url.partition('://')[2].rstrip('/')}" if self.base_url else ""
        return f"{self.provider}/{self.model_for(asked)}{where}"[:128]


class Hedge(_Strict):
    """A second target is asked when the first is slower than usual; who answers first, wins."""

    quantile: float = Field(0.95, gt=0.5, lt=1, description="Of the target's own recent latencies.")
    min_delay_s: float = Field(0.05, ge=0, le=60)
    max_share: float = Field(
        0.05, gt=0, le=1, description="Of the requests that may be sent twice: the cap on the extra cost."
    )


class Route(_Strict):
    """What answers under one name."""

    match: str | None = Field(
        None, min_length=1, description="Names that it answers besides, with * and ?: `fb-*`."
    )
    targets: list[Target] = Field(min_length=1)
    order: Literal["ordered", "weighted"] = Field(
        "ordered", description="As they stand; or the first by weight, then the others."
    )
    deadline_ms: int = Field(60_000, gt=0, le=3_600_000, description="Unless the caller gives one.")
    max_attempts: int = Field(5, ge=1, le=20, description="Calls in all, retries included.")
    on_broken_stream: Rescue = Field(
        "restart",
        description="restart: tokens are passed on as they come; after a break another target answers anew, "
        "and what it says must begin with what was sent. buffer: nothing is sent until it is complete, so "
        "any break is mended. error: a break after the first token ends in an error event.",
    )
    hedge: Hedge | None = None
    cache_s: int | None = Field(
        None, gt=0, le=2_592_000, description="Keep answers, for the same key and the very same request."
    )
    payload: Literal["none", "hash", "sampled", "full"] = Field(
        "hash", description="What of messages and answers is recorded."
    )
    payload_sample: float = Field(0.1, gt=0, le=1, description="Share that `sampled` keeps in full.")
    monthly_usd: float | None = Field(None, gt=0, description="What the route may spend a month.")

    def in_order(self, draw: Callable[[], float] = random.random) -> list[Target]:
        """The targets in the order they are to be tried."""
        if self.order == "ordered":
            return list(self.targets)
        # Weighted sampling without replacement: Efraimidis and Spirakis, 2006.
        return sorted(self.targets, key=lambda target: draw() ** (1 / target.weight), reverse=True)


class Routes(_Strict):
    """`routes.yaml`."""

    routes: dict[Annotated[str, Field(pattern=_NAME)], Route] = {}

    @field_validator("routes")
    @classmethod
    def _with_prefix(cls, routes: dict[str, Route]) -> dict[str, Route]:
        named = {PREFIX + name.removeprefix(PREFIX): route for name, route in routes.items()}
        if len(named) < len(routes):
            raise ValueError("a name stands twice, with and without route/")
        return named

    def find(self, model: str) -> tuple[str, Route] | None:
        """The route of a model's name, with its own name: `route/<name>`, else the first that matches it."""
        if found := self.routes.get(model):
            return model, found
        plain = model.removeprefix(PREFIX)
        for name, route in self.routes.items():
            if route.match and (fnmatchcase(plain, route.match) or fnmatchcase(model, route.match)):
                return name, route
        return None


def routes_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and other tools."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Routes.model_json_schema()}


def version_of(route: Route) -> str:
    """The first 12 hex digits of the SHA-256 of what a route says, in canonical JSON."""
    canonical = json.dumps(route.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def parse_routes(text: str, source: str) -> Routes:
    """Reads and checks `routes.yaml`.

    Raises:
        ManifestError: `detail` has a line `source:line: field: what is wrong` for every fault.
    """
    try:
        located = load_located(text)
    except NotYaml as error:
        raise ManifestError(f"{source}:{error.line}: not YAML: {error}") from error
    faults = list(located.duplicates)
    routes = None
    try:
        routes = Routes.model_validate(located.data or {})
    except ValidationError as error:
        faults += [(e["loc"], _told(e)) for e in error.errors()]
    if routes:
        faults += _check(routes)
    if routes is None or faults:
        placed = sorted((located.line_of(path), ".".join(map(str, path)), told) for path, told in faults)
        lines = (f"{source}:{line}: {path or 'routes'}: {told}" for line, path, told in placed)
        raise ManifestError("\n".join(lines))
    return routes


def _check(routes: Routes) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for name, route in routes.routes.items():
        for position, target in enumerate(route.targets):
            if target.model is None and route.match is None:
                here = ("routes", name, "targets", position, "model")
                yield here, "is missing: only a route with `match` can pass on the name that was asked for"


def _told(error: Any) -> str:
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a key of the format"
        case _:
            given = error.get("input")
            shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
            return f"{error['msg'].removeprefix('Value error, ')}{shown}"
