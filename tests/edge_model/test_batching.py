"""The slots, with the real model in this process."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edge_model.batching import Runner
from edge_model.cpus import granted_cpus
from edge_model.runtime import Model, Outputs, Row
from support.artefacts import make_dynamic, publish
from support.loading import load
from trivium.errors import Overloaded, ProviderError, StepTimeout

LONG = "where is my card " * 20


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    made = Runner(slots=2, max_queue_ms=200)
    yield made
    await asyncio.to_thread(made.close)


def _soon(seconds: float = 30) -> float:
    return time.monotonic() + seconds


async def test_a_text_is_answered_the_same_whatever_runs_beside_it(model: Model, runner: Runner) -> None:
    rows = model.encode([f"{'please ' * (n % 7)}tell me where transfer {n} is" for n in range(37)])
    together = await runner.run(model, rows, _soon())
    for position, row in enumerate(rows):
        alone = model.run([row])
        assert together.probabilities[position] == pytest.approx(alone.probabilities[0], abs=1e-5)
        assert together.embedding[position] == pytest.approx(alone.embedding[0], abs=1e-5)
        assert together.in_scope[position] == pytest.approx(alone.in_scope[0], abs=1e-5)


async def test_too_much_waiting_is_refused_at_once(model: Model, runner: Runner) -> None:
    rows = model.encode([LONG] * 8)
    results = await asyncio.gather(
        *(runner.run(model, rows, _soon()) for _ in range(200)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert 0 < len(refused) < 200
    assert all(error.retry_after_s for error in refused)
    assert all(isinstance(result, Overloaded) or len(result.in_scope) == 8 for result in results)  # type: ignore[union-attr]
    assert len((await runner.run(model, rows, _soon())).in_scope) == 8


async def test_a_large_request_waits_its_turns_instead_of_being_refused(model: Model, runner: Runner) -> None:
    rows = model.encode([LONG] * 100)
    large = [runner.run(model, rows, _soon()) for _ in range(3)]
    assert [len(outputs.in_scope) for outputs in await asyncio.gather(*large)] == [100] * 3


async def test_a_large_request_ends_at_its_deadline(model: Model, runner: Runner) -> None:
    rows = model.encode([LONG] * 1_000)
    with pytest.raises((StepTimeout, Overloaded)):
        await runner.run(model, rows, _soon(0.1))
    assert len((await runner.run(model, rows[:8], _soon())).in_scope) == 8


async def test_callers_that_leave_free_their_places_and_harm_nobody(model: Model, runner: Runner) -> None:
    rows = model.encode(["where is my card"] * 2)
    for _ in range(30):
        calls = [asyncio.create_task(runner.run(model, rows, _soon())) for _ in range(6)]
        await asyncio.sleep(0.001)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert not any(isinstance(result, BaseException) for result in results[1::2])
    assert runner.wait_ms == pytest.approx(0, abs=5)


async def test_a_run_that_fails_fails_its_own_batch_alone(model: Model, runner: Runner) -> None:
    impossible = [Row(np.array([10**9], dtype=np.int64))]
    fine = model.encode(["hello"])
    bad, good = await asyncio.gather(
        runner.run(model, impossible, _soon()),
        runner.run(model, model.encode([LONG]), _soon()),
        return_exceptions=True,
    )
    assert isinstance(bad, ProviderError)
    assert not isinstance(good, BaseException)
    assert len((await runner.run(model, fine, _soon())).in_scope) == 1


async def test_errands_get_a_slot_and_their_errors_come_back(runner: Runner) -> None:
    assert await runner.errand(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await runner.errand(lambda: 1 // 0)
    assert await runner.errand(lambda: 8) == 8


async def test_the_heartbeat_of_idle_slots_stays_young(runner: Runner) -> None:
    await asyncio.sleep(1.3)
    assert runner.heartbeat_age_s < 1.2


async def test_the_heartbeat_ages_while_a_slot_does_not_come_back(runner: Runner) -> None:
    wedged = asyncio.create_task(runner.errand(lambda: time.sleep(1.5)))
    await asyncio.sleep(1.4)
    assert runner.heartbeat_age_s > 1.2
    await wedged
    await asyncio.sleep(0.1)
    assert runner.heartbeat_age_s < 1


@pytest.mark.parametrize(
    ("content", "most"), [("max 100000", 10_000), ("150000 100000", 1), ("50000 100000", 1), ("", 10_000)]
)
def test_cpus_come_from_the_quota_not_from_the_host(tmp_path: Path, content: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert 1 <= granted_cpus(tmp_path / "cpu.max") <= most


async def test_rows_share_a_run_only_where_that_changes_no_answer(
    registry: Path, artefact: Path, model: Model, runner: Runner
) -> None:
    assert model.is_exact_in_batches()
    dynamic = load(publish(registry, artefact, "400", make_dynamic))
    assert not dynamic.is_exact_in_batches()
    dynamic.batches = False
    rows = dynamic.encode(["I lost my card", "Why?", "How do I change my PIN, please?"] * 3)
    together = await runner.run(dynamic, rows, _soon())
    alone = Outputs.joined([dynamic.run([row]) for row in rows])
    assert (together.probabilities == alone.probabilities).all()
