"""The window of answers that edge cases are looked for in."""

import time
from typing import Any

from trivium.domain.feedback import Kind
from trivium.domain.inference import Arm, Question
from trivium.store.edge_cases import EdgeCaseRepository
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of


async def test_a_window_has_what_was_asked_and_what_became_of_it(
    database: Database, make_inference: Any, make_feedback: Any
) -> None:
    now = time.time()
    kept, plain = make_inference(), make_inference()
    others = [
        make_inference(arm=Arm.CONTROL),
        make_inference(feature="other"),
        make_inference(created_at=now - 100_000),
        make_inference(question=Question({"text": "[redacted]"})),
    ]
    rows = [rows_of(one)[0] for one in (kept, plain, *others)]
    rows.append({**rows_of(make_inference())[0], "input": None})
    await InferenceRepository(database).add(rows, [])
    feedback = FeedbackRepository(database)
    events = [
        make_feedback(inference_id=kept.id, kind=Kind.SHOWN, value=None),
        make_feedback(inference_id=kept.id, value={"reply": "first"}, received_at=now - 2),
        make_feedback(inference_id=kept.id, value={"reply": "last"}, received_at=now - 1),
        make_feedback(inference_id=plain.id, kind=Kind.SHOWN, value=None),
    ]
    for event in events:
        await feedback.add(event)
    window = await EdgeCaseRepository(database).window("reply", now - 1_000, 10)
    assert window.total == 4  # the redacted one and the one without payload are of it, but cannot be read
    assert [one.id for one in window.answers] == [plain.id, kept.id]
    unheard, heard = window.answers
    assert (heard.judged, heard.overridden, heard.corrected) == (True, True, {"reply": "last"})
    assert (unheard.judged, unheard.overridden, unheard.corrected) == (False, False, None)
    assert (await EdgeCaseRepository(database).window("reply", now - 1_000, 1)).answers == [unheard]


async def test_a_window_is_read_in_pages(database: Database, make_inference: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("trivium.store.edge_cases.PAGE", 3)
    made = [make_inference() for _ in range(10)]
    await InferenceRepository(database).add([rows_of(one)[0] for one in made], [])
    window = await EdgeCaseRepository(database).window("reply", 0, 100)
    assert [one.id for one in window.answers] == sorted((one.id for one in made), reverse=True)
