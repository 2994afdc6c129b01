"""What may go, goes; in portions, and nothing else."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import event, func, select, text

from support.postgres import Postgres
from trivium.store.engine import Database, migrate
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, attempt_rows, rows_of
from trivium.store.retention import (
    DAY_S,
    LEDGER_DAYS,
    attempts_left,
    feedback_left,
    inferences,
    judged_payloads,
    payloads,
    shadow_outputs,
    shadows,
)
from trivium.store.retention_derived import ended_runs, results_past_use
from trivium.store.retention_records import audit_events, decisions, drift_reports
from trivium.store.shadows import ShadowRepository
from trivium.store.sweeps import Sweep, Sweeper, distinct
from trivium.store.tables import attempt, feedback, inference, shadow_answer


async def _aged(database: Database, make_inference: Any, days: list[float], **more: Any) -> list[str]:
    made = [make_inference(created_at=time.time() - age * DAY_S, **more) for age in days]
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])
    return [one.id for one in made]


async def _count(database: Database, table: Any) -> int:
    async with database.transaction() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def _ago(days: float) -> float:
    return time.time() - days * DAY_S


async def test_payloads_go_first_and_the_ledger_stays_for_its_time(
    database: Database, make_inference: Any, make_feedback: Any
) -> None:
    young, stripped, dropped = await _aged(database, make_inference, [1, 31, LEDGER_DAYS + 1])
    (other,) = await _aged(database, make_inference, [400], feature="other")
    for about in (young, stripped, dropped):
        await FeedbackRepository(database).add(make_feedback(inference_id=about))
    sweeper = Sweeper(database)
    whole, bare_sweep = inferences("reply", _ago(LEDGER_DAYS)), payloads("reply", _ago(30))
    expected = {"inference": 1, "attempt": 2, "feedback": 1}
    assert await sweeper.all(whole, dry=True) == expected
    assert await sweeper.all(bare_sweep, dry=True) == {"inference_payload": 2}
    assert await _count(database, inference) == 4
    assert await sweeper.all(whole) == expected
    assert await sweeper.all(bare_sweep) == {"inference_payload": 1}
    rows = InferenceRepository(database)
    kept, bare = await rows.find(young), await rows.find(stripped)
    assert kept
    assert kept["input"]
    assert bare
    assert (bare["input"], bare["output"], bare["cost_usd"]) == (None, None, None)
    assert len(await rows.attempts_of(stripped)) == 2
    assert await rows.find(dropped) is None
    assert await rows.attempts_of(dropped) == []
    assert await rows.find(other)
    assert await _count(database, feedback) == 2
    async with database.transaction() as connection:
        value = select(feedback.c.value).where(feedback.c.inference_id == stripped)
        assert (await connection.execute(value)).scalar_one() is None
    assert not (await sweeper.all(whole)) + (await sweeper.all(bare_sweep))


async def test_many_go_in_windows_and_what_was_cut_short_goes_on(
    database: Database, make_inference: Any
) -> None:
    # All of one moment, so that the windows end between rows that only their ids tell apart.
    await _aged(database, make_inference, [100.0] * 2_500)
    sweep = inferences("reply", _ago(70))
    steps = Sweeper(database, 400).steps(sweep)
    first = await anext(steps)
    assert first.counts["inference"] == 400 and first.end
    await steps.aclose()
    assert await _count(database, inference) == 2_100
    assert (await Sweeper(database).all(sweep))["inference"] == 2_100
    assert await _count(database, attempt) == 0


async def test_what_was_looked_at_is_not_looked_at_again_from_a_place_on(
    database: Database, make_inference: Any
) -> None:
    ids = await _aged(database, make_inference, [100.0, 99.0, 98.0])
    sweep = payloads("reply", _ago(70), frozenset(ids[1:2]))
    ends = [step.end async for step in Sweeper(database, 2).steps(sweep)]
    assert ends[-1] is None and ends[0] and ends[0][1] == ids[1]
    assert sweep.seen
    later = replace(sweep, spared=frozenset())
    again = [step.counts async for step in Sweeper(database).steps(later, sweep.seen)]
    assert again == [{"inference_payload": 0}] or again == [{}]
    assert await Sweeper(database).all(later) == {"inference_payload": 1}


async def test_what_candidates_said_goes_as_payloads_do_and_its_cost_stays_for_its_time(
    database: Database, make_inference: Any
) -> None:
    repository = ShadowRepository(database)
    for age in (1, 31, LEDGER_DAYS + 1):
        made = make_inference()
        at = _ago(age)
        row = {
            "id": f"s-{age}",
            "inference_id": made.id,
            "feature": "reply",
            "served_variant": "a",
            "served_version": "1",
            "variant": "b",
            "version": "2",
            "outcome": "ok",
            "output": {"label": "x"},
            "agrees": True,
            "confidence": None,
            "latency_ms": 3.0,
            "cost_usd": 0.5,
            "created_at": at,
        }
        await repository.add([row], attempt_rows(row["id"], "shadow/reply", None, at, made.attempts[:1]))
    sweeper = Sweeper(database)
    assert not await sweeper.all(shadows("other", _ago(LEDGER_DAYS)))
    assert not await sweeper.all(attempts_left("shadow/reply", _ago(0)))
    assert await sweeper.all(shadows("reply", _ago(LEDGER_DAYS))) == {"shadow_answer": 1, "attempt": 1}
    assert await sweeper.all(shadow_outputs("reply", _ago(30))) == {"shadow_answer_payload": 1}
    async with database.transaction() as connection:
        own = shadow_answer.c
        left = (await connection.execute(select(own.id, own.output, own.cost_usd).order_by(own.id))).all()
    assert [tuple(row) for row in left] == [("s-1", {"label": "x"}, 0.5), ("s-31", None, 0.5)]
    assert await _count(database, attempt) == 2


async def test_feedback_and_attempts_without_an_inference_go_and_others_do_not(
    database: Database, make_inference: Any, make_feedback: Any
) -> None:
    (there,) = await _aged(database, make_inference, [200])
    lost = make_inference(created_at=_ago(200))
    async with database.transaction() as connection:
        _, rows = rows_of(lost)
        await connection.execute(attempt.insert(), rows)
    for about, age in ((there, 120), (lost.id, 120), (lost.id, 10)):
        await FeedbackRepository(database).add(make_feedback(inference_id=about, received_at=_ago(age)))
    sweeper = Sweeper(database)
    assert await sweeper.all(feedback_left(_ago(90))) == {"feedback": 1}
    assert await sweeper.all(attempts_left("reply", _ago(90))) == {"attempt": 2}
    assert len(await InferenceRepository(database).attempts_of(there)) == 2
    assert await _count(database, feedback) == 2


async def test_different_values_are_found_one_look_at_a_time(database: Database, make_inference: Any) -> None:
    for name in ("b", "a", "b", "ä"):
        await _aged(database, make_inference, [1.0] * 3, feature=name)
    assert sorted(await distinct(database, inference.c.feature)) == [("a",), ("b",), ("ä",)]
    own = inference.c
    assert sorted(await distinct(database, own.feature, own.arm)) == [
        (name, "treatment") for name in ("a", "b", "ä")
    ]


# Ids are hashes: their order is not that of time.
MANY = (
    """INSERT INTO inference (id, feature, arm, subject_id, key_id, input, output, step, pattern, degraded,
         stale,
         latency_ms, deadline_ms, created_at)
       SELECT md5(n::text), 'f' || n % 5, 't', 'u', 'k', '{}', '{}', 's', 'edge', false, false, 1, 1,
         CAST(:now AS float8) - n * 300
       FROM generate_series(1, 20000) n""",
    """INSERT INTO attempt (inference_id, number, feature, step, pattern, target, outcome, latency_ms,
         created_at)
       SELECT id, 1, feature, 's', 'edge', 't', 'ok', 1, created_at FROM inference""",
    """INSERT INTO feedback (id, inference_id, key_id, idempotency_key, kind, occurred_at, received_at)
       SELECT id, id, 'k', id, 'shown', created_at, created_at FROM inference""",
    """INSERT INTO shadow_answer (id, inference_id, feature, variant, version, outcome, latency_ms,
         created_at)
       SELECT id, id, feature, 'v', '1', 'ok', 1, created_at FROM inference""",
    """INSERT INTO audit_event (id, actor, action, target, outcome, created_at)
       SELECT id, 'a', 'a', 't', 'done', created_at FROM inference""",
    """INSERT INTO decision (id, feature, action, from_stage, to_stage, variant, version, decided_by, reason,
         overridden, figures, created_at)
       SELECT id, feature, 'hold', 'a', 'a', 'v', '1', 'b', 'r', false, '{}', created_at FROM inference""",
    """INSERT INTO drift_report (id, feature, variant, version, window_from, window_until, rows, columns,
         drifted,
         created_at) SELECT id, feature, 'v', '1', 0, 0, 1, '{}', false, created_at FROM inference""",
    """INSERT INTO precompute_run (id, feature, variant, variant_version, trigger, source, state, phase,
         priority, force, max_error_ratio, line_errors, bad_lines, created_at, finished_at)
       SELECT lpad(to_hex((created_at * 1000)::bigint), 12, '0') || left(md5(id), 24), feature, 'v', '1',
         'refresh', '{}', 'done', 'compute', 0, false, 1, '[]', 0, created_at, created_at FROM inference""",
    """INSERT INTO precompute_chunk (id, run_id, phase, position, entity_keys, size, state, token, attempts,
         failures, computed, unchanged, abstained, failed, gone, cost_usd)
       SELECT md5(id), id, 'compute', 0, '[]', 0, 'done', 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM precompute_run""",
    """INSERT INTO dead_item (run_id, entity_key, feature, variant, variant_version, code, detail, abstained,
         created_at) SELECT id, 'k', 'f', 'v', '1', 'c', 'd', false, created_at FROM precompute_run""",
    """INSERT INTO precomputed_result (feature, variant, entity_key, output, input_hash, variant_version,
         computed_at, run_id) SELECT feature, 'v', id, '{}', 'h', '1', created_at, 'r' FROM inference""",
    """INSERT INTO archive_item (archive, entity_key, record, input_hash, imported_at)
       SELECT 'a', id, '{}', 'h', created_at FROM inference""",
)


async def test_on_postgresql_no_window_reads_a_table_as_a_whole(
    postgres: Postgres, open_database: Callable[[str], Database]
) -> None:
    """With enough rows, and with statistics; without, PostgreSQL takes a condition for less than it is."""
    database = open_database(postgres.new_database())
    await migrate(database)
    now = time.time()
    async with database.transaction() as connection:
        for number, statement in enumerate(MANY):
            await connection.execute(text(statement), {"now": now} if not number else {})
    before = now - 30 * DAY_S
    sweeps = [
        *(sweep("f3", before) for sweep in (inferences, payloads, judged_payloads, shadows, shadow_outputs)),
        *(sweep("f3", before) for sweep in (attempts_left, decisions, drift_reports)),
        *(feedback_left(before), audit_events(before), results_past_use("f3", "v", "a", before, before)),
        *ended_runs(before),
    ]
    async with database.reading() as connection:
        await connection.execute(text("ANALYZE"))
    for sweep in sweeps:
        statements = await _statements(database, sweep)
        assert len(statements) >= 4
        async with database.reading() as connection:
            for statement, values in statements:
                plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", values)
                told = "\n".join(row[0] for row in plan)
                assert "Seq Scan" not in told, f"{sweep.name}: {statement}\n{told}"


async def _statements(database: Database, sweep: Sweep) -> list[tuple[str, Any]]:
    """What the first two windows of a sweep say to the database; the second deletes."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        seen.append((statement, values))

    sweeper = Sweeper(database, 20)
    engines = (database.engine.sync_engine, database._reading.sync_engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        dry = await anext(sweeper.steps(sweep, dry=True))
        assert dry.end
        await anext(sweeper.steps(sweep, dry.end))
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)
    return seen
