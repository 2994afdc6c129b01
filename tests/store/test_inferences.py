import asyncio
from collections.abc import Callable

from trivium.domain.inference import Inference, StepAnswer
from trivium.store.engine import Database
from trivium.store.inferences import InferenceRepository, rows_of

MakeInference = Callable[..., Inference]


async def test_an_inference_is_read_back_as_it_was_stored(
    database: Database, make_inference: MakeInference
) -> None:
    repository = InferenceRepository(database)
    made = make_inference()
    row, attempts = rows_of(made)
    await repository.add([row], attempts)
    assert await repository.find(made.id) == row
    assert await repository.attempts_of(made.id) == attempts


async def test_an_unknown_price_is_null_and_a_free_answer_costs_nothing(
    database: Database, make_inference: MakeInference
) -> None:
    repository = InferenceRepository(database)
    unknown, free = make_inference(), make_inference(attempts=[])
    for made in (unknown, free):
        row, attempts = rows_of(made)
        await repository.add([row], attempts)
    first, second = await repository.find(unknown.id), await repository.find(free.id)
    assert first is not None and second is not None
    assert first["cost_usd"] is None
    assert first["usage"] == {"input": 12, "output": 2, "cached_input": 3, "cache_write": 0, "reasoning": 0}
    assert second["cost_usd"] == 0
    assert second["usage"] is None
    assert await repository.attempts_of(free.id) == []


async def test_an_unknown_id_finds_nothing(database: Database) -> None:
    repository = InferenceRepository(database)
    assert await repository.find("none") is None
    assert await repository.attempts_of("none") == []


async def test_rows_that_stand_already_are_left_as_they_are(
    database: Database, make_inference: MakeInference
) -> None:
    repository = InferenceRepository(database)
    made = make_inference()
    row, attempts = rows_of(made)
    await repository.add([row], attempts)
    changed, _ = rows_of(make_inference(id=made.id, answer=StepAnswer({"reply": "other"})))
    new, more = rows_of(make_inference())
    await repository.add([changed, new], [*attempts, *more])
    assert await repository.find(made.id) == row
    assert await repository.attempts_of(made.id) == attempts
    assert await repository.find(str(new["id"])) == new


async def test_the_same_batch_stored_by_many_at_once_stands_once(
    database: Database, make_inference: MakeInference
) -> None:
    repository = InferenceRepository(database)
    pairs = [rows_of(make_inference()) for _ in range(20)]
    rows = [row for row, _ in pairs]
    attempts = [tried for _, tries in pairs for tried in tries]
    await asyncio.gather(*(repository.add(rows, attempts) for _ in range(6)))
    for row, tries in pairs:
        assert await repository.find(str(row["id"])) == row
        assert await repository.attempts_of(str(row["id"])) == tries


async def test_thousands_of_rows_go_in_one_call(database: Database, make_inference: MakeInference) -> None:
    repository = InferenceRepository(database)
    pairs = [rows_of(make_inference()) for _ in range(1_500)]
    await repository.add([row for row, _ in pairs], [tried for _, tries in pairs for tried in tries])
    assert await repository.find(str(pairs[-1][0]["id"])) == pairs[-1][0]
    assert len(await repository.attempts_of(str(pairs[-1][0]["id"]))) == 2
