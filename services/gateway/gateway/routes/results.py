"""`/v1/features/{feature}/results`: stored results, read without an inference."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.routes.problems import PROBLEMS
from gateway.state import State, scope
from trivium.domain.precompute import Judged, Standing
from trivium.errors import EntityUnknown, ResultMissing, ResultStale
from trivium.openapi import problem
from trivium.store.keys import Key
from trivium.store.results import StoredResult
from trivium.web import StrictRoute

router = APIRouter(prefix="/v1/features", tags=["results"], responses=PROBLEMS, route_class=StrictRoute)
Infer = Annotated[Key, Depends(scope("infer"))]
# No store can hold a null character.
EntityKey = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00]+$")]


class ResultOut(BaseModel):
    """A stored result; `output`, `confidence` and `model` are null where there is none that can be served."""

    entity_key: str
    status: Standing = Field(
        description="fresh, stale (being computed anew), expired (too old to be served), missing (not "
        "computed yet) or unknown (no such entity)."
    )
    output: dict[str, Any] | None
    stale: bool
    stale_reason: str | None = Field(description="input, variant or age.")
    age_s: float | None = Field(description="Seconds since it was computed.")
    variant: str
    variant_version: str | None
    confidence: float | None
    model: str | None
    computed_at: float | None


class BatchIn(BaseModel):
    """Entities to look up."""

    model_config = ConfigDict(extra="forbid")

    entity_keys: list[EntityKey] = Field(
        min_length=1, max_length=100, json_schema_extra={"uniqueItems": True}
    )
    variant: str | None = Field(None, description="By default the one that is served.")

    @field_validator("entity_keys")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        twice = sorted({key for key in value if value.count(key) > 1})
        if twice:
            raise ValueError(f"stand twice: {', '.join(twice)}")
        return value


class BatchOut(BaseModel):
    """In the order that was asked for."""

    results: list[ResultOut]


@router.post("/{feature}/results:batchGet")
async def batch_get(feature: str, body: BatchIn, state: State, _: Infer) -> BatchOut:
    """Up to a hundred stored results by one query; what no longer holds is computed anew."""
    variant, found = await state.serving.stored(feature, body.variant, body.entity_keys)
    return BatchOut(results=[_result_out(variant, *one) for one in found])


@router.get(
    "/{feature}/results/{entity_key:path}",
    responses={
        404: problem("`result_missing`: not computed yet; `entity_unknown`: no such entity."),
        503: problem("`result_stale`: too old to be served; or the database is away."),
    },
)
async def get_result(
    feature: str,
    entity_key: EntityKey,
    state: State,
    _: Infer,
    variant: Annotated[str | None, Query(description="By default the one that is served.")] = None,
) -> ResultOut:
    """One stored result."""
    name, (found,) = await state.serving.stored(feature, variant, [entity_key])
    out = _result_out(name, *found)
    match out.status:
        case "unknown":
            raise EntityUnknown(f"There is no entity {entity_key!r}")
        case "missing":
            raise ResultMissing(f"Nothing is stored for {entity_key!r} yet", retry_after_s=2)
        case "expired":
            raise ResultStale(f"What is stored for {entity_key!r} is too old to be served", retry_after_s=2)
    return out


def _result_out(variant: str, found: StoredResult, judged: Judged) -> ResultOut:
    served = judged.served
    has = found.output is not None
    return ResultOut(
        entity_key=found.entity_key,
        status=judged.standing,
        output=found.output if served else None,
        stale=judged.standing == "stale",
        stale_reason=judged.stale_reason,
        age_s=judged.age_s,
        variant=variant,
        variant_version=found.variant_version if has else None,
        confidence=found.confidence if served else None,
        model=found.model if served else None,
        computed_at=found.computed_at if has else None,
    )
