"""`/v1/audit`: every administrative act, for whoever looks after the platform."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from gateway.routes.problems import PROBLEMS
from gateway.state import State, scope
from trivium.store.audit import AuditEvent, AuditFilter
from trivium.store.keys import Key

router = APIRouter(prefix="/v1/audit", tags=["audit"], responses=PROBLEMS)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ].*", re.DOTALL)


def _written_out(value: Any) -> Any:
    if isinstance(value, str) and not _DATE.fullmatch(value):  # a number would be taken for seconds
        raise ValueError("give a time with its offset, such as 2026-01-31T12:00:00Z")
    return value


Since = Annotated[AwareDatetime, BeforeValidator(_written_out)]
# No store can hold a null character.
Text = Annotated[str | None, Query(max_length=1_024, pattern=r"^[^\x00]+$")]


class AuditEventOut(BaseModel):
    """Who did what to what, and whether it was done."""

    id: str
    actor: str = Field(description="cli:<user of the system>, key:<id of the key> or guard.")
    action: str = Field(description="As keys.create.")
    target: str
    outcome: Literal["done", "refused", "failed"]
    detail: dict[str, Any] | None
    request_id: str | None
    created_at: datetime


class AuditOut(BaseModel):
    """Events, the newest first."""

    events: list[AuditEventOut]
    next: str | None = Field(description="Give it as `after` for the next page.")


@router.get("")
async def read_audit(
    state: State,
    _: Annotated[Key, Depends(scope("admin"))],
    since: Annotated[Since | None, Query(description="Only from then on.")] = None,
    actor: Text = None,
    action: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[^\x00]+$", description="One, or all of a kind: keys is each keys.…"),
    ] = None,
    target: Text = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[
        str | None,
        Query(max_length=36, pattern=r"^[^\x00]*$", description="The `next` of the page before."),
    ] = None,
) -> AuditOut:
    """Every administrative act, by HTTP, on the command line and of the guard; the refused ones too."""
    wanted = AuditFilter(since.timestamp() if since else None, actor, action, target)
    found = await state.audit.list(limit + 1, after, wanted)
    page = found[:limit]
    more = page[-1].id if len(found) > limit else None
    return AuditOut(events=[_out(event) for event in page], next=more)


def _out(event: AuditEvent) -> AuditEventOut:
    created = datetime.fromtimestamp(event.created_at, UTC)
    return AuditEventOut.model_validate({**asdict(event), "created_at": created})
