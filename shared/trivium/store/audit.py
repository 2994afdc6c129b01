"""The audit log: every administrative act, as rows that nothing changes and only retention takes away."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import insert, or_, select

from trivium.store.engine import Database
from trivium.store.tables import audit_event
from trivium.telemetry import new_id

Outcome = Literal["done", "refused", "failed"]
GUARD = "guard"
_MOST_NAME, _MOST_ACTION, _MOST_TARGET, _MOST_DETAIL = 128, 64, 1_024, 8_192
# Keys of ours and of the usual vendors, and the passwords of URLs, wherever they stand in a text.
_SECRETS = re.compile(r"\b(?:trv_|sk-)[\w-]{8,}|(?<=://)[^/\s@]+(?=@)|(?i:(?<=bearer ))\S+")


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what to what, and whether it was done. Times are Unix seconds."""

    id: str
    actor: str
    action: str
    target: str
    outcome: Outcome
    detail: dict[str, Any] | None
    request_id: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events are wanted; None wants all. `action` is one, or all of a kind: `keys` is each `keys.…`."""

    since: float | None = None
    actor: str | None = None
    action: str | None = None
    target: str | None = None


EVERYTHING = AuditFilter()


class AuditRepository:
    """The audit log in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self,
        actor: str,
        action: str,
        target: str,
        outcome: Outcome,
        detail: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> AuditEvent:
        """Adds an event; texts that look like secrets are blotted out, and what is too long is cut.

        Args:
            actor: `cli:<user of the system>`, `key:<id of the key>` or `guard`.
            action: What was done, as `keys.create`.
            target: To what: a feature, a key, a run, a file.
            outcome: done, refused (it is not allowed or makes no sense) or failed (something was away).
            detail: What else is worth knowing, as JSON.
            request_id: Of an act by HTTP, as in the log.

        Raises:
            Unavailable: the database is away.
        """
        event = AuditEvent(
            id=new_id(),
            actor=_clean(actor)[:_MOST_NAME],
            action=action[:_MOST_ACTION],
            target=_clean(target)[:_MOST_TARGET],
            outcome=outcome,
            detail=_detail(detail),
            request_id=_clean(request_id)[:_MOST_NAME] if request_id else None,
            created_at=time.time(),
        )
        row = {name: getattr(event, name) for name in AuditEvent.__slots__}
        async with self._database.transaction() as connection:
            await connection.execute(insert(audit_event), row)
        return event

    async def list(
        self, most: int, before: str | None = None, wanted: AuditFilter = EVERYTHING
    ) -> list[AuditEvent]:
        """The newest first, `most` of them, those before the one of the id `before`; raises Unavailable."""
        own = audit_event.c
        # An id is a UUIDv7, so its order is that of time.
        found = select(audit_event).order_by(own.id.desc()).limit(most)
        if before is not None:
            found = found.where(own.id < before)
        if wanted.since is not None:
            found = found.where(own.created_at >= wanted.since)
        if wanted.actor is not None:
            found = found.where(own.actor == wanted.actor)
        if wanted.action is not None:
            kind = own.action.startswith(f"{wanted.action}.", autoescape=True)
            found = found.where(or_(own.action == wanted.action, kind))
        if wanted.target is not None:
            found = found.where(own.target == wanted.target)
        async with self._database.reading() as connection:
            return [AuditEvent(**row) for row in (await connection.execute(found)).mappings()]


def _detail(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not given:
        return None
    plain: dict[str, Any] = orjson.loads(orjson.dumps(dict(given), default=str))
    cleaned: dict[str, Any] = _cleaned(plain)
    if len(orjson.dumps(cleaned)) > _MOST_DETAIL:
        return {"cut": orjson.dumps(cleaned).decode()[: _MOST_DETAIL // 4]}
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, dict):
        return {_clean(name): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value


def _clean(text: str) -> str:
    """Without null characters, which PostgreSQL cannot store, and without secrets."""
    return _SECRETS.sub("[secret]", text.replace("\0", "\ufffd"))
