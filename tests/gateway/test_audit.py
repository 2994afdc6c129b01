"""What acts by HTTP leave in the audit log, and how it is read."""

from typing import Any

import pytest
from sqlalchemy import text

from gateway.state import MOST_REFUSED
from trivium.store.audit import AuditEvent, AuditRepository
from trivium.store.keys import Key, KeyRepository
from trivium.store.runs import RunRepository

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""Of what is no matter of the store."""
START = "/v1/features/intents/precompute"


async def _key(database: Any, *scopes: str) -> tuple[Key, dict[str, str]]:
    key, secret = await KeyRepository(database).create("own", list(scopes))
    return key, {"Authorization": f"Bearer {secret}"}


async def _events(database: Any) -> list[AuditEvent]:
    return await AuditRepository(database).list(100)


async def test_what_is_done_is_entered_with_who_what_and_the_request(gateway: Any, database: Any) -> None:
    key, headers = await _key(database, "precompute")
    started = await gateway.client.post(START, headers={**headers, "X-Request-Id": "start-1"}, json={})
    run = started.json()["run_id"]
    assert (await gateway.client.post(f"/v1/precompute/{run}/cancel", headers=headers)).status_code == 200
    cancel, start = await _events(database)
    assert (start.actor, start.action, start.target, start.outcome) == (
        f"key:{key.own_id}",
        "runs.start",
        "intents",
        "done",
    )
    assert start.request_id == "start-1"
    assert start.detail == {"run": run, "created": True}
    assert (cancel.action, cancel.target, cancel.outcome) == ("runs.cancel", run, "done")
    assert cancel.detail == {"feature": "intents"}
    # To look is no act.
    await gateway.client.get(f"/v1/precompute/{run}", headers=headers)
    assert len(await _events(database)) == 2


@ON_SQLITE
async def test_what_is_refused_is_entered_too_and_of_one_key_not_without_end(
    gateway: Any, database: Any
) -> None:
    key, headers = await _key(database, "infer")
    for _ in range(3):
        assert (await gateway.client.post(START, headers=headers, json={})).status_code == 403
    events = await _events(database)
    assert [(event.actor, event.outcome) for event in events] == [(f"key:{key.own_id}", "refused")] * 3
    assert events[0].detail and "lacks the scope 'precompute'" in events[0].detail["why"]
    other, allowed = await _key(database, "precompute")
    for path, body, status, why in (
        ("/v1/features/none/precompute", {}, 404, "not_found"),
        (START, {"source": "nowhere"}, 422, "RequestValidationError"),
        (START, {"url": "file:///etc/passwd"}, 422, "invalid_request"),
        ("/v1/precompute/none/cancel", None, 404, "not_found"),
        ("/v1/precompute/none/replay", None, 404, "not_found"),
    ):
        answer = await gateway.client.post(path, headers=allowed, json=body)
        assert answer.status_code == status, answer.text
        event = (await _events(database))[0]
        assert (event.actor, event.outcome) == (f"key:{other.own_id}", "refused")
        assert event.detail and event.detail["why"].startswith(why)
    for _ in range(MOST_REFUSED + 5):
        await gateway.client.post(START, headers=headers, json={})
    own = [event for event in await _events(database) if event.actor == f"key:{key.own_id}"]
    assert len(own) == MOST_REFUSED


@ON_SQLITE
async def test_who_has_no_key_fills_no_log(gateway: Any, database: Any) -> None:
    for number in range(25):
        wrong = {"Authorization": f"Bearer trv_{number}"}
        assert (await gateway.client.post(START, headers=wrong, json={})).status_code in (401, 429)
    assert not await _events(database)


async def test_an_act_that_cannot_be_entered_is_no_success(gateway: Any, database: Any) -> None:
    _, headers = await _key(database, "precompute")
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE audit_event RENAME TO audit_event_away"))
    try:
        answer = await gateway.client.post(START, headers=headers, json={})
        assert answer.status_code == 503, answer.text
        assert "runs.start of intents was done, but could not be entered" in answer.json()["detail"]
        assert answer.headers["retry-after"]
        # Refused is refused, whether or not it can be entered.
        assert (await gateway.client.post(START, headers=headers, json={})).status_code == 409
    finally:
        async with database.transaction() as connection:
            await connection.execute(text("ALTER TABLE audit_event_away RENAME TO audit_event"))


@ON_SQLITE
async def test_without_the_database_no_act_is_done(gateway: Any, database: Any, monkeypatch: Any) -> None:
    from trivium.store.engine import Database

    _, headers = await _key(database, "precompute")
    await gateway.client.get("/v1/features", headers=headers)  # the key is known from here on
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:9/none")
    monkeypatch.setattr(gateway.state.runs, "_database", away)
    monkeypatch.setattr(gateway.state.audit, "_database", away)
    answer = await gateway.client.post(START, headers=headers, json={})
    assert answer.status_code == 503
    await away.close()
    assert not await RunRepository(database).newest("intents", 10)


async def test_an_admin_reads_it_page_by_page_and_no_one_else_does(gateway: Any, database: Any) -> None:
    audit = AuditRepository(database)
    made = [await audit.record("cli:ann", "keys.create", f"key {n}", "done", {"n": n}) for n in range(5)]
    await audit.record("guard", "rollout.hold", "intents", "done")
    for scopes, status in ((["infer", "feedback", "precompute"], 403), (["admin"], 200)):
        _, headers = await _key(database, *scopes)
        assert (await gateway.client.get("/v1/audit", headers=headers)).status_code == status
    seen: list[Any] = []
    after = None
    while True:
        query: dict[str, Any] = {"actor": "cli:ann", "limit": 2, **({"after": after} if after else {})}
        body = (await gateway.client.get("/v1/audit", headers=headers, params=query)).json()
        assert len(body["events"]) <= 2
        seen += body["events"]
        after = body["next"]
        if after is None:
            break
    assert [event["id"] for event in seen] == [event.id for event in reversed(made)]
    assert seen[0] | {"created_at": None} == {
        "id": made[-1].id,
        "actor": "cli:ann",
        "action": "keys.create",
        "target": "key 4",
        "outcome": "done",
        "detail": {"n": 4},
        "request_id": None,
        "created_at": None,
    }
    for query, count in (
        ({"action": "rollout"}, 1),
        ({"target": "intents"}, 1),
        ({"since": "2020-01-01T00:00:00Z"}, 6),
        ({"since": "2120-01-01T00:00:00+02:00"}, 0),
    ):
        found = (await gateway.client.get("/v1/audit", headers=headers, params=query)).json()["events"]
        assert len(found) == count, query


@ON_SQLITE
async def test_a_wrong_question_is_told(gateway: Any, database: Any) -> None:
    _, headers = await _key(database, "admin")
    for query in (
        "since=yesterday",
        "since=0.5",
        "since=1790000000",
        "since=2026-01-01T00:00:00",
        "limit=0",
        "limit=101",
        "actor=%00",
    ):
        answer = await gateway.client.get(f"/v1/audit?{query}", headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == query.partition("=")[0]
