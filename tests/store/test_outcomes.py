"""Sums by the database, against the same by hand."""

import random
import re
import time
from typing import Any

import pytest
from sqlalchemy import event

from trivium.domain.estimate import ClusterSums, quantile
from trivium.domain.feedback import OVERRIDES, Kind
from trivium.domain.inference import Arm, Inference
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.outcomes import OutcomeRepository

NOW = 1_800_000_000.0
SLOW_MS = 900.0


async def _store(database: Database, made: list[Inference]) -> None:
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])


@pytest.fixture
async def world(database: Database, make_inference: Any, make_feedback: Any) -> list[tuple[Inference, Any]]:
    """Inferences at random, each with the kinds of its feedback."""
    rng = random.Random(11)
    made = []
    for _ in range(400):
        arm = rng.choice(list(Arm))
        one = make_inference(
            arm=arm,
            subject_id=f"{arm.value}-{int(rng.paretovariate(0.7)) % 40}",
            degraded=rng.random() < 0.2,
            latency_ms=rng.expovariate(1 / 500),
            created_at=NOW - rng.random() * 5 * 86_400,
        )
        one.status = rng.choice(["done"] * 8 + ["failed", "left"])
        made.append((one, [rng.choice(list(Kind)) for _ in range(rng.choice([0, 0, 1, 2]))]))
    await _store(database, [one for one, _ in made])
    # What is about another feature, or lies outside the window, counts for nothing.
    await _store(database, [make_inference(feature="other", created_at=NOW - 100)])
    await _store(database, [make_inference(created_at=NOW + 100)])
    for one, kinds in made:
        for kind in kinds:
            await FeedbackRepository(database).add(make_feedback(inference_id=one.id, kind=kind, value=None))
    return made


def _by_hand(of: dict[str, list[tuple[int, int]]]) -> ClusterSums:
    pairs = [(sum(n for n, _ in some), sum(k for _, k in some)) for some in of.values()]
    pairs = [(n, k) for n, k in pairs if n]
    sums = [sum(values) for values in zip(*((n, k, n * n, k * k, n * k) for n, k in pairs), strict=True)]
    return ClusterSums(len(pairs), *map(float, sums))


async def test_each_arms_sums_are_those_by_hand(
    database: Database, world: list[tuple[Inference, list[Kind]]]
) -> None:
    found = await OutcomeRepository(database).arms("reply", NOW - 3 * 86_400, NOW, SLOW_MS)
    metrics = await OutcomeRepository(database).metrics("reply", NOW - 3 * 86_400, NOW, SLOW_MS)
    for arm in Arm:
        errors: dict[str, list[tuple[int, int]]] = {}
        slow: dict[str, list[tuple[int, int]]] = {}
        overrides: dict[str, list[tuple[int, int]]] = {}
        latencies = []
        for one, kinds in world:
            if one.arm is not arm or one.status == "left" or one.created_at < NOW - 3 * 86_400:
                continue
            judged = any(kind is not Kind.SHOWN for kind in kinds)
            bad = one.degraded or one.status == "failed"
            errors.setdefault(one.subject_id, []).append((1, int(bad)))
            slow.setdefault(one.subject_id, []).append((1, int(one.latency_ms > SLOW_MS)))
            over = any(kind in OVERRIDES for kind in kinds)
            overrides.setdefault(one.subject_id, []).append((int(judged), int(over)))
            latencies.append(one.latency_ms)
        own = found[arm]
        assert (own.subjects, own.requests) == (len(errors), len(latencies))
        assert own.errors == _by_hand(errors)
        assert own.slow == _by_hand(slow)
        assert own.overrides == _by_hand(overrides)
        assert own.interacted == own.overrides.units
        assert metrics[arm].p50_ms == quantile(sorted(latencies), 0.5)
        assert metrics[arm].p99_ms == quantile(sorted(latencies), 0.99)


async def test_days_and_versions_are_parts_of_the_whole(
    database: Database, world: list[tuple[Inference, list[Kind]]]
) -> None:
    outcomes = OutcomeRepository(database)
    whole = await outcomes.arms("reply", NOW - 9 * 86_400, NOW, SLOW_MS)
    by_day = await outcomes.parts("reply", NOW - 9 * 86_400, NOW, SLOW_MS, "day")
    assert len({part.part for part in by_day}) in (5, 6)
    for arm in Arm:
        assert sum(p.outcomes.requests for p in by_day if p.arm is arm) == whole[arm].requests
    by_variant = await outcomes.parts("reply", NOW - 9 * 86_400, NOW, SLOW_MS, "variant")
    assert {part.part for part in by_variant} == {"small/v2"}
    assert {part.arm: part.outcomes for part in by_variant} == whole
    for part in by_day:
        latencies = [
            one.latency_ms
            for one, _ in world
            if one.status != "left" and one.arm is part.arm and one.created_at // 86_400 == float(part.part)
        ]
        assert part.metrics.p99_ms == quantile(sorted(latencies), 0.99)
    spans = [(NOW - 86_400, "late"), (NOW - 2 * 86_400, "early")]
    by_span = await outcomes.parts("reply", NOW - 9 * 86_400, NOW, SLOW_MS, spans)
    counted = {
        (name, arm): sum(
            one.status != "left" and one.arm is arm and start <= one.created_at < end for one, _ in world
        )
        for name, start, end in (
            ("", NOW - 9 * 86_400, NOW - 2 * 86_400),
            ("early", NOW - 2 * 86_400, NOW - 86_400),
            ("late", NOW - 86_400, NOW),
        )
        for arm in Arm
    }
    assert {(part.part, part.arm): part.outcomes.requests for part in by_span} == counted


async def test_a_placeholder_is_an_error_once_its_answer_does_not_come(
    database: Database, make_inference: Any
) -> None:
    made = [
        make_inference(subject_id="waits", degraded=True, created_at=NOW - 5),
        make_inference(subject_id="waited in vain", degraded=True, created_at=NOW - 500),
        make_inference(subject_id="got it", degraded=False, created_at=NOW - 5),
    ]
    for one in made[:2]:
        one.status = "generating"
    await _store(database, made)
    found = await OutcomeRepository(database).arms("reply", NOW - 1000, NOW, SLOW_MS)
    assert (found[Arm.TREATMENT].errors.k, found[Arm.TREATMENT].errors.n) == (1, 3)


async def test_feedback_that_came_before_its_inference_counts(
    database: Database, make_inference: Any, make_feedback: Any
) -> None:
    one = make_inference(created_at=NOW - 5)
    early = make_feedback(inference_id=one.id, kind=Kind.DISMISSED, value=None, received_at=NOW - 9)
    await FeedbackRepository(database).add(early)
    outcomes = OutcomeRepository(database)
    assert await outcomes.arms("reply", NOW - 1000, NOW, SLOW_MS) == {}
    await _store(database, [one])
    late = make_feedback(inference_id=one.id, kind=Kind.ACCEPTED, value=None, received_at=NOW + 9e6)
    await FeedbackRepository(database).add(late)
    overrides = (await outcomes.arms("reply", NOW - 1000, NOW, SLOW_MS))[Arm.TREATMENT].overrides
    assert (overrides.n, overrides.k) == (1, 1)


async def test_a_window_is_found_by_the_index(database: Database, world: Any) -> None:
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        statements.append(statement)
        parameters.append(given)

    parameters: list[Any] = []
    engine = database._reading.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await OutcomeRepository(database).metrics("reply", NOW - 3 * 86_400, NOW, SLOW_MS)
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) == 2
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    async with database.transaction() as connection:
        if not database.is_sqlite:  # a table of some hundred rows is read as a whole otherwise
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, given in zip(statements, parameters, strict=True):
            plan = (await connection.exec_driver_sql(explain + statement, given)).all()
            told = "\n".join(str(row) for row in plan)
            assert "ix_inference_feature_created_at" in told, told
            assert not re.search(r"(SCAN|Seq Scan on) (inference|feedback)", told), told


async def test_of_nothing_nothing_is_said(database: Database) -> None:
    outcomes = OutcomeRepository(database)
    assert await outcomes.arms("reply", 0, time.time(), SLOW_MS) == {}
    assert await outcomes.metrics("reply", 0, time.time(), SLOW_MS) == {}
