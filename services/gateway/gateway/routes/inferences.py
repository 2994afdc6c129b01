"""`/v1/inferences`: answers, read back."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from gateway.routes.problems import PROBLEMS
from gateway.state import State, scope
from trivium.errors import NotFound
from trivium.store.keys import Key
from trivium.web import StrictRoute

router = APIRouter(prefix="/v1/inferences", tags=["inferences"], responses=PROBLEMS, route_class=StrictRoute)


class ServedByOut(BaseModel):
    """Who answered; `variant`, `version` and `model` are null for the static step."""

    step: str
    pattern: str
    variant: str | None
    version: str | None
    model: str | None


class UsageOut(BaseModel):
    """Tokens of all attempts; `cached_input` is part of `input`."""

    input: int
    output: int
    cached_input: int


class InferenceOut(BaseModel):
    """An answer."""

    inference_id: str
    status: str = "done"
    output: dict[str, Any]
    arm: str = Field(description="treatment (the AI) or control (the non-AI version).")
    served_by: ServedByOut
    degraded: bool = Field(description="A later step than the first answered.")
    fallback_reason: str | None = Field(description="Why the first step did not.")
    confidence: float | None
    stale: bool
    stale_reason: str | None
    age_s: float | None = Field(description="Seconds since a stored result was computed.")
    usage: UsageOut | None
    cost_usd: float | None = Field(description="Null where the price of an attempt is unknown.")
    latency_ms: float


def inference_out(row: dict[str, Any]) -> InferenceOut:
    """The wire shape of an inference's row."""
    return InferenceOut(
        inference_id=row["id"],
        output=row["output"],
        arm=row["arm"],
        served_by=ServedByOut(**{k: row[k] for k in ServedByOut.model_fields}),
        degraded=row["degraded"],
        fallback_reason=row["fallback_reason"],
        confidence=row["confidence"],
        stale=row["stale"],
        stale_reason=row["stale_reason"],
        age_s=row["age_s"],
        usage=row["usage"],
        cost_usd=row["cost_usd"],
        latency_ms=round(row["latency_ms"], 3),
    )


@router.get("/{inference_id}")
async def read_back(
    inference_id: UUID, state: State, key: Annotated[Key, Depends(scope("infer"))]
) -> InferenceOut:
    """An answer that was given to this key; an `admin` key reads every answer."""
    row = await state.recorder.find(str(inference_id))
    if row is None or (row["key_id"] != key.id and "admin" not in key.scopes):
        raise NotFound(f"There is no inference {inference_id}")
    return inference_out(row)
