"""`/v1/inferences`: answers, read back, and waited for while they are generated."""

import asyncio
import time
from collections.abc import AsyncGenerator
from math import ceil
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from gateway.routes.problems import PROBLEMS
from gateway.state import MAX_STREAMS, GatewayState, State, demand_feature, scope
from trivium.errors import NotFound, Unavailable
from trivium.store.keys import Key
from trivium.web import StrictRoute

router = APIRouter(prefix="/v1/inferences", tags=["inferences"], responses=PROBLEMS, route_class=StrictRoute)
Reader = Annotated[Key, Depends(scope("infer", "admin"))]
RETRY_MS = 500
EVENTS_S = 60.0
POLL_S = 0.25
HEARTBEAT_S = 5.0


class ServedByOut(BaseModel):
    """Who answered; `variant`, `version` and `model` are null for the static step."""

    step: str
    pattern: str
    variant: str | None
    version: str | None
    model: str | None


class UsageOut(BaseModel):
    """Tokens of all attempts; `cached_input` and `cache_write` are in `input`, `reasoning` is in `output`."""

    input: int
    output: int
    cached_input: int
    cache_write: int = 0
    reasoning: int = 0


class InferenceOut(BaseModel):
    """An answer."""

    inference_id: str
    status: Literal["done"] = "done"
    output: dict[str, Any] | None = Field(description="Null where the feature's recording does not keep it.")
    arm: str = Field(description="treatment (the AI) or control (the non-AI version).")
    served_by: ServedByOut
    degraded: bool = Field(description="A later step than the first answered.")
    fallback_reason: str | None = Field(description="Why the first step did not.")
    confidence: float | None
    stale: bool
    stale_reason: str | None
    age_s: float | None = Field(description="Seconds since a stored result was computed.")
    cached: bool = Field(description="The same question of the same key was answered before, and kept.")
    usage: UsageOut | None
    cost_usd: float | None = Field(description="Null where the price of an attempt is unknown.")
    latency_ms: float


class GeneratingOut(BaseModel):
    """An answer that the worker is asked for. Until it is there, the non-AI version is the placeholder."""

    inference_id: str
    status: Literal["generating"] = "generating"
    placeholder: dict[str, Any] | None
    fallback_reason: str | None = Field(description="result_missing or result_stale.")
    retry_after_ms: int


GENERATING: dict[int | str, dict[str, Any]] = {
    202: {
        "model": GeneratingOut,
        "description": "The result is being computed: read it back, or wait for it at …/events.",
    }
}


def answered(row: dict[str, Any]) -> InferenceOut | Response:
    """The answer to a caller: 200, or 202 while it is generating."""
    out = inference_out(row)
    if isinstance(out, InferenceOut):
        return out
    headers = {
        "Location": f"/v1/inferences/{out.inference_id}",
        "Retry-After": str(ceil(RETRY_MS / 1000)),
    }
    return JSONResponse(out.model_dump(), 202, headers)


def inference_out(row: dict[str, Any]) -> InferenceOut | GeneratingOut:
    """The wire shape of an inference's row."""
    if row["status"] == "generating":
        return GeneratingOut(
            inference_id=row["id"],
            placeholder=row["output"],
            fallback_reason=row["fallback_reason"],
            retry_after_ms=RETRY_MS,
        )
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
        cached=row["cached"],
        usage=row["usage"],
        cost_usd=row["cost_usd"],
        latency_ms=round(row["latency_ms"], 3),
    )


@router.get("/{inference_id}", response_model=InferenceOut, responses=GENERATING)
async def read_back(inference_id: UUID, state: State, key: Reader) -> InferenceOut | Response:
    """An answer that was given to this key; an `admin` key reads every answer.

    One that was being generated is answered as soon as the worker has computed it, and after a minute
    without that the placeholder is the answer.
    """
    return answered(await _row(state, inference_id, key))


@router.get(
    "/{inference_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events `generating`, `done`, `timeout`."}
    },
)
async def events(inference_id: UUID, state: State, key: Reader) -> StreamingResponse:
    """Server-sent events: `generating` at once, and `done` with the answer when it is there.

    The stream ends with `done`, or with `timeout` after a minute.
    """
    row = await _row(state, inference_id, key)
    if state.streams.locked():
        raise Unavailable(f"{MAX_STREAMS} streams are open", retry_after_s=5)
    headers = {"X-Accel-Buffering": "no"}
    stream = events_of(state, inference_id, key, row)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _row(state: GatewayState, inference_id: UUID, key: Key) -> dict[str, Any]:
    row = await state.recorder.find(str(inference_id))
    if row is None or (row["key_id"] != key.id and "admin" not in key.scopes):
        raise NotFound(f"There is no inference {inference_id}")
    demand_feature(key, row["feature"])
    return await state.serving.settled(row)


async def events_of(
    state: GatewayState, inference_id: UUID, key: Key, row: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The events from an inference's row as it stands until its answer is there."""
    async with state.streams:
        end = time.monotonic() + EVENTS_S
        beat = time.monotonic()
        if row["status"] == "generating":
            yield _event("generating", row)
        while row["status"] == "generating":
            if time.monotonic() > end:
                yield _event("timeout", row)
                return
            await asyncio.sleep(POLL_S)
            if time.monotonic() > beat + HEARTBEAT_S:
                beat = time.monotonic()
                yield b": still generating\n\n"
            try:
                row = await _row(state, inference_id, key)
            except Unavailable:
                continue  # the database may be back before the end
        yield _event("done", row)


def _event(name: str, row: dict[str, Any]) -> bytes:
    body = inference_out(row).model_dump(mode="json")
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(body))
