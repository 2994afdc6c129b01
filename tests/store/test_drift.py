"""Windows, references and reports, on both databases."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.drifting import a_feature
from trivium.domain.drift import ColumnReport, DriftReport, Shares
from trivium.domain.feedback import Kind
from trivium.domain.inference import Arm, Attempt, Inference, ServedBy
from trivium.drift.checking import served_by
from trivium.store import drift as store
from trivium.store.drift import DriftRepository, Served, StoredReference
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.tables import drift_reference

SERVED = Served("reply", "draft", "v1")
OWN = ServedBy("main", "api", "draft", "v1", "large")


async def _add(database: Database, made: list[Inference]) -> None:
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])


def _own(make_inference: Any, at: float, **changes: Any) -> Inference:
    """One that the version answered itself."""
    ok = [Attempt(OWN, "openai/large", "ok", 5.0)]
    values = {"served_by": OWN, "degraded": False, "fallback_reason": None, "attempts": ok}
    made: Inference = make_inference(created_at=at, **{**values, **changes})
    return made


async def test_first_and_newest_are_those_that_the_version_was_asked_for(
    database: Database, make_inference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 3)
    monkeypatch.setattr(store, "PAYLOADS", 2)
    old = ServedBy("main", "api", "draft", "v0", "large")
    other = [Attempt(old, "openai/large", "ok", 5.0)]
    mine = [_own(make_inference, 100.0 + n // 2) for n in range(11)]  # some at the same moment
    degraded = make_inference(created_at=200.0)  # its first attempt, of this version, failed
    noise = [
        *(_own(make_inference, 50.0 + n, served_by=old, attempts=other) for n in range(7)),
        *(_own(make_inference, 101.0 + n, arm=Arm.CONTROL) for n in range(5)),
        _own(make_inference, 103.0, status="left"),
        _own(make_inference, 104.0, feature="other"),
    ]
    await _add(database, [*mine, degraded, *noise])
    repository = DriftRepository(database)
    order = [one.id for one in sorted([*mine, degraded], key=lambda one: (one.created_at, one.id))]
    assert [one.id for one in await repository.first(SERVED, 5)] == order[:5]
    assert [one.id for one in await repository.first(SERVED, 99)] == order
    assert [one.id for one in await repository.newest(SERVED, 5)] == order[-5:]
    assert [one.id for one in await repository.newest(SERVED, 99)] == order
    assert [one.id for one in await repository.newest(SERVED, 99, after=103.0)] == order[8:]
    assert await repository.newest(Served("reply", "draft", "v9"), 5) == []


async def test_a_window_is_not_looked_for_for_ever(
    database: Database, make_inference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 2)
    monkeypatch.setattr(store, "LOOKED_THROUGH", 3)
    old = ServedBy("main", "api", "draft", "v0", "large")
    recent = [
        _own(make_inference, 200.0 + n, served_by=old, attempts=[Attempt(old, "t", "ok", 1.0)])
        for n in range(8)
    ]
    await _add(database, [_own(make_inference, 100.0), *recent])
    assert await DriftRepository(database).newest(SERVED, 1) == []


async def test_what_is_observed(database: Database, make_inference: Any, make_feedback: Any) -> None:
    cases = {
        "own": _own(make_inference, 1.0),
        "degraded": make_inference(created_at=2.0),
        "failed": _own(make_inference, 3.0, status="failed"),
        "waits": _own(make_inference, 4.0, status="generating"),
        "handed on": _own(make_inference, 5.0, served_by=ServedBy("spare", "edge", "small", "v2")),
        "accepted": _own(make_inference, 6.0),
        "edited": _own(make_inference, 7.0),
        "shown": _own(make_inference, 8.0),
    }
    await _add(database, list(cases.values()))
    said = {"accepted": [Kind.ACCEPTED], "edited": [Kind.ACCEPTED, Kind.EDITED], "shown": [Kind.SHOWN]}
    for name, kinds in said.items():
        for kind in kinds:
            event = make_feedback(inference_id=cases[name].id, kind=kind, value=None)
            await FeedbackRepository(database).add(event)
    found = dict(zip(cases, await DriftRepository(database).first(SERVED, 99), strict=True))
    assert {name: (one.fell_back, one.reason) for name, one in found.items()} == {
        "own": (False, None),
        "degraded": (True, "timeout"),
        "failed": (True, "failed"),
        "waits": (True, "generating"),
        "handed on": (True, "handed_on"),
        **dict.fromkeys(("accepted", "edited", "shown"), (False, None)),
    }
    verdicts = {name: one.overridden for name, one in found.items() if one.overridden is not None}
    assert verdicts == {"accepted": False, "edited": True}
    assert found["own"].input == {"text": "naïve “text” 🙂"}
    assert (found["own"].output, found["own"].confidence) == ({"reply": "yes"}, 0.75)
    for name in ("degraded", "failed", "waits", "handed on"):
        assert (found[name].output, found[name].confidence) == (None, None)


def _report(**changes: Any) -> DriftReport:
    columns = [
        ColumnReport("length", "ks", 0.2, 0.1, 0.001, True, 200, 50, "up", Shares(["a"], [0.5], [0.6])),
        ColumnReport("words", "js", 0.0, 0.1, 1.0, False, 200, 50, ""),
    ]
    served = (SERVED.feature, SERVED.variant, SERVED.version)
    values: dict[str, Any] = {"window_until": 9.0, "absent": {"embedding": "none"}, **changes}
    until, absent = values["window_until"], values["absent"]
    return DriftReport(*served, 1.0, until, 50, "the first", 200, 1_000, 0.05, columns, absent)


async def test_a_report_is_stored_once_and_comes_back(database: Database) -> None:
    repository = DriftRepository(database)
    assert await repository.last_report(SERVED) is None
    assert await repository.add_report("r1", _report())
    assert not await repository.add_report("r1", _report(window_until=99.0))
    assert await repository.has_report("r1") and not await repository.has_report("r2")
    found = await repository.last_report(SERVED)
    assert found == _report()
    assert found.drifted and found.columns[0].score == pytest.approx(2)
    assert await repository.add_report("r2", _report(window_until=10.0))
    last = await repository.last_report(SERVED)
    assert last and last.window_until == 10.0
    assert await repository.last_report(Served("reply", "draft", "v2")) is None


async def test_references_are_replaced(database: Database, root: Path) -> None:
    repository, now = DriftRepository(database), time.time()
    served = served_by(a_feature(root))
    for age_s, source in ((1, "first"), (0, "second")):
        made = StoredReference(source, 200, 5.0, {"columns": {}}, now - age_s)
        await repository.put_reference(served, made)
    found = await repository.reference(served)
    assert found == StoredReference("second", 200, 5.0, {"columns": {}}, now)
    async with database.transaction() as connection:
        assert len((await connection.execute(select(drift_reference.c.version))).all()) == 1
