import asyncio
import resource
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import orjson
import pytest
from sqlalchemy import func, select, text

from support.postgres import Postgres
from trivium.domain.feedback import Feedback
from trivium.domain.inference import Inference, Question, Usage
from trivium.errors import Conflict, Unavailable
from trivium.store.engine import Database, migrate
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.journal import Journal
from trivium.store.recorder import RECENT, Recorder
from trivium.store.shadows import ShadowRepository
from trivium.store.tables import attempt, inference
from trivium.telemetry import new_id

OpenDatabase = Callable[[str], Database]

MakeInference = Callable[..., Inference]
MakeFeedback = Callable[..., Feedback]


class AwayDatabase(Protocol):
    """What the fixture `away` gives."""

    database: Database
    appear: Callable[[], Awaitable[None]]


def _recorder(database: Database, folder: Path, max_bytes: int = 256 * 1024 * 1024) -> Recorder:
    return _on(database, Journal(folder / "journal", max_bytes))


def _on(database: Database, journal: Journal) -> Recorder:
    repositories = InferenceRepository(database), FeedbackRepository(database), ShadowRepository(database)
    return Recorder(journal, *repositories)


async def _until(ready: Callable[[], Awaitable[bool]], seconds: float = 6) -> None:
    async with asyncio.timeout(seconds):
        while not await ready():
            await asyncio.sleep(0.02)


async def _ids_in_order_of_storing(database: Database) -> list[str]:
    # PostgreSQL fills pages in any order, so a row's place tells nothing: its transaction does, and
    # within one the ids, which rise.
    place = "rowid" if database.is_sqlite else "xmin::text::bigint, id"
    async with database.transaction() as connection:
        found = await connection.execute(select(inference.c.id).order_by(text(place)))
        return list(found.scalars())


async def _attempts(database: Database) -> int:
    async with database.transaction() as connection:
        return int((await connection.execute(select(func.count()).select_from(attempt))).scalar_one())


def _lines_in_files(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("journal/*/*.jsonl"))


async def test_an_inference_and_its_attempts_reach_the_database_in_the_background(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder, repository = _recorder(database, tmp_path), InferenceRepository(database)
    recorder.start()
    made = make_inference()
    recorder.record(made)

    async def is_stored() -> bool:
        return await repository.find(made.id) is not None

    await _until(is_stored)
    row, attempts = rows_of(made)
    assert await repository.find(made.id) == row
    assert await repository.attempts_of(made.id) == attempts
    await recorder.stop()
    assert list((tmp_path / "journal").iterdir()) == []


async def test_an_inference_is_found_before_and_after_it_is_stored_and_is_the_same(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(database, tmp_path)
    made = make_inference()
    recorder.record(made)
    assert await InferenceRepository(database).find(made.id) is None
    before = await recorder.find(made.id)
    await recorder.stop()
    after = await _recorder(database, tmp_path).find(made.id)
    assert before == after
    assert before is not None and before["id"] == made.id
    assert await recorder.find("none") is None


async def test_stopping_stores_what_waits(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(database, tmp_path)
    recorder.start()
    made = [make_inference() for _ in range(1_200)]
    for one in made:
        recorder.record(one)
    await recorder.stop()
    assert await _ids_in_order_of_storing(database) == [one.id for one in made]
    assert await _attempts(database) == 2_400


async def test_while_the_database_is_away_all_waits_in_files_and_is_then_stored_in_order(
    away: AwayDatabase, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(away.database, tmp_path)
    made = [make_inference(attempts=make_inference().attempts[:1]) for _ in range(RECENT + 300)]
    for number, one in enumerate(made):
        recorder.record(one)
        if number in (500, 1_500):
            with pytest.raises(Unavailable):
                await recorder.flush()
    assert _lines_in_files(tmp_path) == len(made)
    newest = await recorder.find(made[-1].id)
    assert newest is not None and newest["id"] == made[-1].id
    with pytest.raises(Unavailable):  # older ones are in no memory
        await recorder.find(made[0].id)

    await away.appear()
    await recorder.flush()
    assert await _ids_in_order_of_storing(away.database) == [one.id for one in made]
    assert await _attempts(away.database) == len(made)
    assert _lines_in_files(tmp_path) == 0
    await recorder.stop()


async def test_the_background_task_outlives_a_database_that_is_away(
    away: AwayDatabase, tmp_path: Path, make_inference: MakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.recorder.RETRY_S", 0.3)
    recorder = _recorder(away.database, tmp_path)
    recorder.start()
    first, second = make_inference(), make_inference()
    recorder.record(first)
    await asyncio.sleep(0.4)
    recorder.record(second)
    await away.appear()

    async def are_stored() -> bool:
        return await _ids_in_order_of_storing(away.database) == [first.id, second.id]

    await _until(are_stored)
    await recorder.stop()


async def test_what_a_stop_without_database_leaves_the_next_start_stores(
    away: AwayDatabase, tmp_path: Path, make_inference: MakeInference, make_feedback: MakeFeedback
) -> None:
    recorder = _recorder(away.database, tmp_path)
    recorder.start()
    made, event = make_inference(), make_feedback()
    recorder.record(made)
    await recorder.take_feedback(event)
    await recorder.stop()
    assert _lines_in_files(tmp_path) == 2

    await away.appear()
    following = _recorder(away.database, tmp_path)
    await following.flush()
    assert await _ids_in_order_of_storing(away.database) == [made.id]
    assert await FeedbackRepository(away.database).of_inference(event.inference_id) == [asdict(event)]
    await following.stop()
    assert _lines_in_files(tmp_path) == 0


async def test_feedback_goes_straight_to_the_database_and_its_repeat_gives_the_stored_one(
    database: Database, tmp_path: Path, make_feedback: MakeFeedback
) -> None:
    recorder = _recorder(database, tmp_path)
    event = make_feedback()
    assert await recorder.take_feedback(event) == (event, True)
    assert await recorder.take_feedback(replace(event, id=new_id())) == (event, True)
    with pytest.raises(Conflict):
        await recorder.take_feedback(replace(event, id=new_id(), value={"reply": "else"}))
    assert await FeedbackRepository(database).of_inference(event.inference_id) == [asdict(event)]
    await recorder.stop()


async def test_feedback_is_kept_while_the_database_is_away_and_stored_once_later(
    away: AwayDatabase, tmp_path: Path, make_feedback: MakeFeedback
) -> None:
    recorder = _recorder(away.database, tmp_path, max_bytes=0)  # a full journal takes feedback still
    event = make_feedback()
    started = time.monotonic()
    assert await recorder.take_feedback(event) == (event, False)
    assert time.monotonic() - started < 2
    await recorder.take_feedback(replace(event, id=new_id()))
    assert _lines_in_files(tmp_path) == 2
    await away.appear()
    await recorder.flush()
    assert await FeedbackRepository(away.database).of_inference(event.inference_id) == [asdict(event)]
    await recorder.stop()


async def test_feedback_does_not_wait_for_a_database_that_hangs(
    database: Database, tmp_path: Path, make_feedback: MakeFeedback
) -> None:
    recorder = _recorder(database, tmp_path)
    event = make_feedback()
    started = time.monotonic()
    if database.is_sqlite:
        blocking = sqlite3.connect(str(database.url.database), isolation_level=None)
        blocking.execute("BEGIN EXCLUSIVE")
        assert await recorder.take_feedback(event) == (event, False)
        took = time.monotonic() - started
        blocking.execute("ROLLBACK")
        blocking.close()
    else:
        async with database.transaction() as connection:
            await connection.execute(text("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE"))
            assert await recorder.take_feedback(event) == (event, False)
            took = time.monotonic() - started
    assert took < 3
    await recorder.flush()
    assert await FeedbackRepository(database).of_inference(event.inference_id) == [asdict(event)]
    await recorder.stop()


async def test_a_row_that_the_database_refuses_is_set_aside_and_the_others_stored(
    database: Database, tmp_path: Path, make_inference: MakeInference, make_feedback: MakeFeedback
) -> None:
    recorder = _recorder(database, tmp_path)
    made = [make_inference() for _ in range(7)]
    bad = replace(made[3], latency_ms=float("nan"))  # written as null, which the column refuses
    for one in [*made[:3], bad, *made[4:]]:
        recorder.record(one)
    await recorder.flush()
    assert await _ids_in_order_of_storing(database) == [one.id for one in made if one.id != bad.id]
    assert await _attempts(database) == 12
    (line,) = (tmp_path / "journal" / "rejected.jsonl").read_bytes().splitlines()
    rejected = orjson.loads(line)
    assert rejected["inference"]["id"] == bad.id
    assert rejected["attempts"] == rows_of(bad)[1]
    assert abs(rejected["at"] - time.time()) < 5
    assert _lines_in_files(tmp_path) == 0
    recorder.record(after := make_inference())
    await recorder.stop()
    assert (await _ids_in_order_of_storing(database))[-1] == after.id


@pytest.mark.parametrize("tokens", [2**31, 2**63])
async def test_an_absurd_number_of_tokens_does_not_block_what_comes_after(
    database: Database, tmp_path: Path, make_inference: MakeInference, tokens: int
) -> None:
    recorder = _recorder(database, tmp_path)
    absurd, after = make_inference(), make_inference()
    absurd.attempts[0].usage = Usage(tokens, 1)  # what a provider said
    recorder.record(absurd)
    recorder.record(after)
    await recorder.flush()
    assert await InferenceRepository(database).find(after.id) is not None
    await recorder.stop()


async def test_a_character_that_the_database_cannot_hold_does_not_block_what_comes_after(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(database, tmp_path)
    odd, after = make_inference(question=Question({"text": "a\x00b"}), subject_id="\x00"), make_inference()
    recorder.record(odd)
    recorder.record(after)
    await recorder.flush()
    assert await InferenceRepository(database).find(after.id) is not None
    await recorder.stop()


async def test_a_line_that_is_no_json_does_not_block_what_comes_after(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    before = _recorder(database, tmp_path)
    made = [make_inference() for _ in range(2)]
    for one in made:
        before.record(one)
    (segment,) = tmp_path.glob("journal/*/*.jsonl")
    first, second = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first + b'{"inference": {"id": "cut sh' + b"\n" + second)
    await before.flush()
    assert await _ids_in_order_of_storing(database) == [one.id for one in made]
    await before.stop()


async def test_a_server_that_may_only_be_read_loses_nothing(
    postgres: Postgres, tmp_path: Path, make_inference: MakeInference, open_database: OpenDatabase
) -> None:
    database = open_database(postgres.new_database())
    await migrate(database)

    async def forbid_writing(value: str) -> None:
        name = database.url.database
        async with database.transaction() as connection:
            await connection.execute(text("SET TRANSACTION READ WRITE"))
            await connection.execute(
                text(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
            )
        await database.close()  # new connections have it

    recorder = _recorder(database, tmp_path)
    recorder.record(made := make_inference())
    await forbid_writing("on")
    with pytest.raises(Unavailable):
        await recorder.flush()
    await forbid_writing("off")
    await recorder.flush()
    assert not (tmp_path / "journal" / "rejected.jsonl").exists()
    assert await _ids_in_order_of_storing(database) == [made.id]
    await recorder.stop()


async def test_a_full_journal_drops_inferences_rather_than_wait(
    away: AwayDatabase, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(away.database, tmp_path, max_bytes=10_000)
    made = [make_inference() for _ in range(50)]
    for one in made:
        recorder.record(one)
    kept = _lines_in_files(tmp_path)
    assert 0 < kept < 50
    await away.appear()
    await recorder.flush()
    assert await _ids_in_order_of_storing(away.database) == [one.id for one in made[:kept]]
    recorder.record(after := make_inference())
    await recorder.stop()
    assert (await _ids_in_order_of_storing(away.database))[-1] == after.id


async def test_while_the_disk_is_full_records_go_to_the_database_from_memory(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    recorder = _recorder(database, tmp_path)
    recorder.record(first := make_inference())
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, old[1]))
    try:
        made = [make_inference() for _ in range(10)]
        for one in made:
            recorder.record(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert _lines_in_files(tmp_path) < 11
    await recorder.flush()
    assert set(await _ids_in_order_of_storing(database)) == {first.id, *(one.id for one in made)}
    await recorder.stop()


async def test_what_a_full_disk_left_in_memory_waits_there_for_the_database(
    away: AwayDatabase, tmp_path: Path, make_inference: MakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.journal.MAX_HELD", 7)
    recorder = _recorder(away.database, tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        made = [make_inference() for _ in range(10)]
        for one in made:
            recorder.record(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    with pytest.raises(Unavailable):
        await recorder.flush()
    await away.appear()
    await recorder.flush()
    assert await _ids_in_order_of_storing(away.database) == [one.id for one in made[:7]]
    await recorder.stop()


async def test_two_recorders_that_find_the_same_orphan_store_it_once_and_go_on(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    left = Journal(tmp_path / "journal")
    made = [make_inference() for _ in range(30)]
    for one in made:
        row, attempts = rows_of(one)
        left.append({"inference": row, "attempts": attempts})
    left.close()
    recorders = [_recorder(database, tmp_path) for _ in range(3)]
    flushing = (recorder.flush() for recorder in recorders)
    assert await asyncio.gather(*flushing, return_exceptions=True) == [None] * 3
    assert sorted(await _ids_in_order_of_storing(database)) == sorted(one.id for one in made)
    assert await _attempts(database) == 60
    for recorder in recorders:
        await recorder.stop()


async def test_what_is_recorded_during_a_flush_still_counts_as_waiting(
    database: Database, tmp_path: Path, make_inference: MakeInference
) -> None:
    journal = Journal(tmp_path / "journal")
    recorder = _on(database, journal)
    recorder.record(make_inference())
    flushing = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0)  # it has ended the segment and waits
    recorder.record(make_inference())
    await flushing
    assert journal.waiting == 1
    await recorder.stop()
    assert journal.waiting == 0
