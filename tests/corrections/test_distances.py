"""Distances that were not known when the feedback came, filled in by workers."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from batch_worker.distances import AT_MOST_S, LEASE, Distances
from support.corrections import say, store_answer
from trivium.domain.feedback import Kind
from trivium.domain.inference import Attempt, Question, ServedBy, StepAnswer
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.leases import LeaseRepository
from trivium.store.tables import feedback, inference, lease
from trivium.telemetry import new_id

STORED = ServedBy("stored-v1", "precomputed", "stored-v1", "v1")


def _distances(database: Database, name: str = "w-1") -> Distances:
    return Distances(FeedbackRepository(database), LeaseRepository(database), name)


async def _stored(database: Database) -> dict[str, Any]:
    async with database.reading() as connection:
        rows = await connection.execute(select(feedback.c.id, feedback.c.edit_distance))
        return {row.id: row.edit_distance for row in rows}


async def test_it_is_filled_in_once_the_inference_is_there(database: Database) -> None:
    inference_id = new_id()
    early = await say(database, inference_id, Kind.CORRECTION, "abcx")
    edited = await say(database, inference_id, Kind.EDITED, "abcd")
    others = [await say(database, inference_id, kind) for kind in (Kind.SHOWN, Kind.ACCEPTED, Kind.DISMISSED)]
    worker = _distances(database)
    assert await worker.fill(60) == 0
    await store_answer(database, "q", "abcd", id=inference_id)
    assert await worker.fill(60, portion=1) == 2
    assert await _stored(database) == {early: 0.25, edited: 0.0, **dict.fromkeys(others)}
    assert await worker.fill(60) == 0


@pytest.mark.parametrize(
    "answer",
    [
        {"kept": False},
        {"answer": StepAnswer({"label": "[redacted]"})},
        {"status": "generating"},
        {"served_by": STORED, "attempts": [Attempt(STORED, "stored", "result_missing", 1.0)]},
    ],
    ids=["not-kept", "redacted", "generating", "settled-late"],
)
async def test_of_an_answer_that_is_not_there_or_was_a_placeholder_it_stays_unknown(
    database: Database, answer: dict[str, Any]
) -> None:
    made = await store_answer(database, "q", "abcd", **answer)
    event = await say(database, made, Kind.CORRECTION, "abcx")
    known = await store_answer(database, "q", "abcd", question=Question({"text": "[redacted]"}))
    other = await say(database, known, Kind.CORRECTION, "abcx")
    assert await _distances(database).fill(60, portion=1) == 1
    assert await _stored(database) == {event: None, other: 0.25}


async def test_it_is_not_tried_for_ever(database: Database) -> None:
    made = await store_answer(database, "q", "abcd")
    at = time.time()
    await say(database, made, Kind.CORRECTION, "abcx", received_at=at - AT_MOST_S - 1)
    late = await say(database, made, Kind.CORRECTION, "abcx", received_at=at - AT_MOST_S + 60)
    assert await _distances(database).fill(3_600) == 0
    assert await _distances(database).fill(AT_MOST_S) == 1
    assert (await _stored(database))[late] == 0.25


async def test_many_at_one_moment_are_read_through_by_several_workers_at_once(database: Database) -> None:
    at = time.time()
    made = [await store_answer(database, f"q {n}", "abcd") for n in range(12)]
    for inference_id in made:
        await say(database, inference_id, Kind.CORRECTION, "abcx", received_at=at)
    async with database.transaction() as connection:
        lost = update(inference).where(inference.c.id.in_(made[::3])).values(output=None)
        await connection.execute(lost)
    await asyncio.gather(*(_distances(database, f"w-{n}").fill(60, portion=2) for n in range(3)))
    assert sorted(map(str, (await _stored(database)).values())) == ["0.25"] * 8 + ["None"] * 4


async def test_a_worker_fills_in_by_itself_and_frees_its_lease(database: Database) -> None:
    made = await store_answer(database, "q", "abcd")
    event = await say(database, made, Kind.CORRECTION, "abcx")
    running = asyncio.create_task(_distances(database).run())
    async with asyncio.timeout(10):
        while (await _stored(database))[event] is None:
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait([running])
    async with database.reading() as connection:
        held = await connection.execute(select(lease.c.holder).where(lease.c.name == LEASE))
        assert held.first() is None
