"""`/v1/feedback`: what became of an answer."""

import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.routes.problems import PROBLEMS
from gateway.state import GatewayState, State, demand_feature, scope
from trivium.domain.feedback import WITH_VALUE, Feedback, Kind
from trivium.edit_distance import edit_distance
from trivium.errors import Conflict, InvalidRequest, NotFound, SchemaViolation, Unavailable
from trivium.metrics import FEEDBACK
from trivium.openapi import problem
from trivium.store.keys import Key
from trivium.telemetry import new_id
from trivium.web import StrictRoute

router = APIRouter(prefix="/v1/feedback", tags=["feedback"], responses=PROBLEMS, route_class=StrictRoute)
_CLOCK_SKEW_S = 300
Row = dict[str, Any]


_VALUE_BY_KIND: dict[str, Any] = {
    "if": {"properties": {"kind": {"enum": sorted(WITH_VALUE)}}},
    "then": {"required": ["value"], "properties": {"value": {"type": "object"}}},
    "else": {"properties": {"value": {"type": "null"}}},
}


class FeedbackIn(BaseModel):
    """An event about an inference."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_VALUE_BY_KIND)

    inference_id: UUID
    kind: Kind
    value: dict[str, Any] | None = Field(
        None, description="The right output; needed for `correction` and `edited`."
    )
    occurred_at: AwareDatetime | None = Field(None, description="By default now.")

    @field_validator("occurred_at", mode="before")
    @classmethod
    def _is_written_out(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | datetime):
            raise ValueError("give a time with its offset, such as 2026-01-31T12:00:00Z")
        return value

    @model_validator(mode="after")
    def _value_where_needed(self) -> Self:
        if self.kind in WITH_VALUE and self.value is None:
            raise ValueError(f"value: {self.kind} needs the right output")
        if self.kind not in WITH_VALUE and self.value is not None:
            raise ValueError(f"value: {self.kind} takes none")
        if self.occurred_at and self.occurred_at.timestamp() > time.time() + _CLOCK_SKEW_S:
            raise ValueError("occurred_at: lies in the future")
        return self


class FeedbackOut(BaseModel):
    """An event that will not be lost."""

    feedback_id: str
    inference_id: str
    kind: Kind
    stored: Literal["database", "journal"] = Field(
        description="journal: on this gateway's disk, until the database is back."
    )


@router.post(
    "",
    status_code=201,
    responses={
        409: problem(
            "The Idempotency-Key was used; or a key that is limited to features came before the record."
        )
    },
)
async def give_feedback(
    body: FeedbackIn,
    state: State,
    key: Annotated[Key, Depends(scope("feedback"))],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> FeedbackOut:
    """Stores an event durably, then acknowledges it; also before its inference has been stored."""
    row = await _about(state, body, key)
    if row and body.value is not None:
        _check_value(state, row, body.value)
    now = time.time()
    occurred = body.occurred_at or datetime.fromtimestamp(now, UTC)
    event_id = new_id()
    event = Feedback(
        id=event_id,
        inference_id=str(body.inference_id),
        key_id=key.id,
        idempotency_key=idempotency_key or event_id,
        kind=body.kind,
        value=_kept(state, row, body.value),
        occurred_at=occurred.timestamp(),
        received_at=now,
        edit_distance=_distance(body, row),
    )
    stored, in_database = await state.recorder.take_feedback(event)
    if stored.id == event.id:
        FEEDBACK.labels(body.kind.value).inc()
        if row and body.kind is Kind.CORRECTION:
            state.serving.correct(row)  # has the worker look again at a stored result that was wrong
    return FeedbackOut(
        feedback_id=stored.id,
        inference_id=stored.inference_id,
        kind=stored.kind,
        stored="database" if in_database else "journal",
    )


async def _about(state: GatewayState, body: FeedbackIn, key: Key) -> Row | None:
    """The inference that a right output is about; None where it is not known yet.

    Raises:
        Forbidden: it is of a feature that the key may not call. Conflict, Unavailable: the key is limited
        to some, and nobody knows yet which the inference is of.
    """
    if key.features is not None:
        row = await state.recorder.find(str(body.inference_id))
        if row is None:
            told = f"Inference {body.inference_id} is not stored yet, so its feature is not known"
            raise Conflict(f"{told}, and this key is limited to some; try again", retry_after_s=2)
        demand_feature(key, row["feature"])
        return row
    if body.value is not None:
        with suppress(Unavailable):
            return await state.recorder.find(str(body.inference_id))
    return None


def _distance(body: FeedbackIn, row: Row | None) -> float | None:
    """How far the right output is from what was answered; None where that is not known."""
    if body.kind is Kind.ACCEPTED:
        return 0.0
    # While the answer is a placeholder, nobody knows what an edit was made of.
    if row is None or body.value is None or row["status"] == "generating":
        return None
    return edit_distance(row["output"], body.value)


def _kept(state: GatewayState, row: Row | None, value: dict[str, Any] | None) -> dict[str, Any] | None:
    """As much of a right output as the feature's recording keeps of outputs.

    Of an inference that is not known yet nothing is known of its feature either: its value is kept whole.
    """
    if row is None or value is None:
        return value
    kept: dict[str, Any] | None = state.catalogue.keeping_of(row["feature"]).of(row["id"], None, value)[
        "output"
    ]
    return kept


def _check_value(state: GatewayState, row: Row, value: dict[str, Any]) -> None:
    """Checks a right output against the feature's schema."""
    try:
        state.catalogue.get(row["feature"]).check_output(value)
    except SchemaViolation as error:
        faults = tuple(replace(f, field=f"value{f.field.removeprefix('output')}") for f in error.errors)
        detail = "; ".join(f"{f.field}: {f.message}" for f in faults)
        raise InvalidRequest(detail, errors=faults) from error
    except NotFound:
        return  # a route's, or one of a feature that is gone
