"""How far what users made of an answer is from it, as soon as feedback comes."""

from typing import Any

import pytest

from trivium.store.feedback import FeedbackRepository
from trivium.store.journal import read_segment
from trivium.telemetry import new_id


async def _give(gateway: Any, inference_id: str, kind: str, label: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"inference_id": inference_id, "kind": kind}
    if label is not None:
        body["value"] = {"label": label}
    answer = await gateway.client.post("/v1/feedback", json=body)
    assert answer.status_code == 201, answer.text
    given: dict[str, Any] = answer.json()
    return given


async def _distances(worker: Any, inference_id: str) -> list[float | None]:
    rows = await FeedbackRepository(worker.database).of_inference(inference_id)
    return [row["edit_distance"] for row in rows]


async def test_an_edit_and_a_correction_say_how_far_they_are_from_the_answer(
    gateway: Any, worker: Any
) -> None:
    await worker.compute("M-1")
    made = (await gateway.infer("M-1")).json()
    assert made["output"] == {"label": "TEXT OF M-1"}
    known = made["inference_id"]
    for kind, label in (
        ("edited", "TEXT OF M-2"),
        ("correction", "TEXT OF M-1"),
        ("accepted", None),
        ("dismissed", None),
        ("shown", None),
    ):
        await _give(gateway, known, kind, label)
    assert await _distances(worker, known) == [pytest.approx(1 / 11), 0.0, 0.0, None, None]


async def test_of_an_inference_that_is_read_back_from_the_database_it_is_known_too(
    start_gateway: Any, worker: Any
) -> None:
    await worker.compute("M-1")
    first, second = await start_gateway(1), await start_gateway(2)
    made = (await first.infer("M-1")).json()["inference_id"]
    await first.state.recorder.flush()
    await _give(second, made, "correction", "TEXT OF M-2")
    assert await _distances(worker, made) == [pytest.approx(1 / 11)]


async def test_before_the_inference_is_known_or_while_it_is_a_placeholder_nobody_knows(
    gateway: Any, worker: Any
) -> None:
    early = new_id()
    await _give(gateway, early, "correction", "anything")
    assert await _distances(worker, early) == [None]
    made = (await gateway.infer("M-9", "hello")).json()
    assert made["status"] == "generating"
    await _give(gateway, made["inference_id"], "edited", "something")
    assert await _distances(worker, made["inference_id"]) == [None]


async def test_while_the_database_takes_nothing_the_journal_has_it(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1")
    made = (await gateway.infer("M-1")).json()["inference_id"]
    await gateway.state.recorder.flush()
    lock = "BEGIN IMMEDIATE" if worker.database.is_sqlite else "LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE"
    async with worker.database.transaction() as connection:
        await connection.exec_driver_sql(lock)
        assert (await _give(gateway, made, "correction", "TEXT OF M-2"))["stored"] == "journal"
        files = gateway.state.settings.state_dir.glob("journal/*/*.jsonl")
        records = [record for file in files for record in read_segment(file)]
        (event,) = [record["feedback"] for record in records if "feedback" in record]
        assert event["edit_distance"] == pytest.approx(1 / 11)
    await gateway.state.recorder.flush()
    assert await _distances(worker, made) == [pytest.approx(1 / 11)]
