import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from trivium.domain.feedback import Feedback, Kind
from trivium.domain.inference import Inference
from trivium.errors import Conflict
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

MakeInference = Callable[..., Inference]
MakeFeedback = Callable[..., Feedback]


async def test_a_repeated_event_gives_the_stored_one(database: Database, make_feedback: MakeFeedback) -> None:
    repository = FeedbackRepository(database)
    event = make_feedback()
    assert await repository.add(event) == event
    again = replace(event, id=new_id(), received_at=event.received_at + 5)
    assert await repository.add(again) == event
    assert len(await repository.of_inference(event.inference_id)) == 1


@pytest.mark.parametrize(
    "change",
    [{"kind": Kind.EDITED}, {"value": {"reply": "else"}}, {"value": None}, {"inference_id": "another"}],
)
async def test_a_key_used_for_another_event_is_a_conflict(
    database: Database, make_feedback: MakeFeedback, change: dict[str, Any]
) -> None:
    repository = FeedbackRepository(database)
    event = make_feedback()
    await repository.add(event)
    other = make_feedback(key_id=event.key_id, idempotency_key=event.idempotency_key)
    same: dict[str, Any] = {"inference_id": event.inference_id, "kind": event.kind, "value": event.value}
    with pytest.raises(Conflict, match=event.id):
        await repository.add(replace(other, **{**same, **change}))
    assert await repository.of_inference(event.inference_id) == [asdict(event)]


async def test_two_callers_may_use_the_same_idempotency_key(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    event = make_feedback(idempotency_key="1")
    other = make_feedback(idempotency_key="1", inference_id=event.inference_id)
    assert await repository.add(event) == event
    assert await repository.add(other) == other
    assert len(await repository.of_inference(event.inference_id)) == 2


async def test_the_same_event_sent_by_many_at_once_is_stored_once(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    for _ in range(3):
        event = make_feedback()
        events = [replace(event, id=new_id()) for _ in range(10)]
        stored = await asyncio.gather(*map(repository.add, events))
        assert len({one.id for one in stored}) == 1
        assert stored[0] in events
        assert await repository.of_inference(event.inference_id) == [asdict(stored[0])]


async def test_of_different_events_at_once_under_one_key_one_wins_and_the_others_conflict(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    for _ in range(3):
        event = make_feedback()
        events = [replace(event, id=new_id(), value={"reply": n}) for n in range(10)]
        ended = await asyncio.gather(*map(repository.add, events), return_exceptions=True)
        won = [one for one in ended if isinstance(one, Feedback)]
        assert sum(isinstance(one, Conflict) for one in ended) == 9
        assert [asdict(one) for one in won] == await repository.of_inference(event.inference_id)


async def test_feedback_may_come_before_its_inference(
    database: Database, make_feedback: MakeFeedback, make_inference: MakeInference
) -> None:
    made = make_inference()
    event = make_feedback(inference_id=made.id)
    feedback, inferences = FeedbackRepository(database), InferenceRepository(database)
    await feedback.add(event)
    row, attempts = rows_of(made)
    await inferences.add([row], attempts)
    assert await inferences.find(made.id) == row
    assert await feedback.of_inference(made.id) == [asdict(event)]


async def test_events_of_an_inference_come_oldest_first(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    subject = new_id()
    for at in (3.0, 1.0, 2.0):
        await repository.add(make_feedback(inference_id=subject, received_at=at, value=None))
    assert [row["received_at"] for row in await repository.of_inference(subject)] == [1.0, 2.0, 3.0]
    assert {row["value"] for row in await repository.of_inference(subject)} == {None}


async def test_what_the_journal_kept_is_stored_once_though_it_comes_twice(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    events = [make_feedback() for _ in range(3)]
    repeated = replace(events[0], id=new_id())
    rows = [asdict(event) for event in [*events, repeated]]
    await repository.add_rows(rows)
    await repository.add_rows(rows)
    for event in events:
        assert await repository.of_inference(event.inference_id) == [asdict(event)]
    assert await repository.add(repeated) == events[0]


async def test_a_journal_of_the_version_before_knows_no_distances(
    database: Database, make_feedback: MakeFeedback
) -> None:
    repository = FeedbackRepository(database)
    old, new = make_feedback(), make_feedback(edit_distance=0.25)
    rows = [asdict(old), asdict(new)]
    del rows[0]["edit_distance"]
    await repository.add_rows(rows)
    assert await repository.of_inference(old.inference_id) == [asdict(old)]
    assert await repository.of_inference(new.inference_id) == [asdict(new)]
    newer = make_feedback(edit_distance=0.5)
    await repository.add_rows([asdict(newer), {**rows[0], "id": new_id(), "idempotency_key": new_id()}])
    assert await repository.of_inference(newer.inference_id) == [asdict(newer)]
