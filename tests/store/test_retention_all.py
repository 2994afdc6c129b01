"""Every table: what is old goes, what something rests on stays."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from support.corrections import MANIFEST, say, store_answer, write_sort
from support.filled import counts, fill, row_of, rows_in
from support.ledger import Ledger, dead_of, results_of
from trivium.domain.corrections import Verdict
from trivium.domain.feedback import Kind
from trivium.features import Catalogue, load_catalogue
from trivium.retention.forgetting import KEPT, Forgetting
from trivium.retention.settings import RetentionSettings
from trivium.store.archive import ArchiveRepository
from trivium.store.corrections import CorrectionRepository
from trivium.store.engine import Database
from trivium.store.known import KnownRepository
from trivium.store.retention_derived import first_id
from trivium.store.tables import (
    api_key,
    archive_embedding,
    archive_item,
    attempt,
    decision,
    drift_reference,
    evaluation,
    evaluation_case,
    inference,
    lease,
    metadata,
    precompute_run,
    precomputed_result,
    refresh_request,
)
from trivium.telemetry import new_id

DAY_S = 86_400
SETTINGS = RetentionSettings()
Row = dict[str, Any]


@pytest.fixture(scope="module")
def catalogue(root: Path) -> Catalogue:
    return load_catalogue(root / "features")


@pytest.fixture
def forgetting(database: Database, catalogue: Catalogue) -> Forgetting:
    return Forgetting(database, catalogue, SETTINGS)


async def _forget(forgetting: Forgetting, *, dry: bool = False) -> Counter[str]:
    total: Counter[str] = Counter()
    async for _, step in forgetting.run(dry=dry):
        total += step.counts
    return total


async def _put(database: Database, table: Any, *rows: Row) -> None:
    async with database.transaction() as connection:
        for row in rows:
            await connection.execute(insert(table).values(row))


async def _end_leases(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(update(lease).values(until=time.time() - 1))


def _ago(days: float) -> float:
    return time.time() - days * DAY_S


async def test_of_every_table_what_is_old_enough_goes_but_what_is_listed(
    database: Database, forgetting: Forgetting
) -> None:
    """A new table gets a row of long ago here, and fails this test until retention knows it."""
    long_ago = _ago(4_000)
    async with database.transaction() as connection:
        await fill(connection, metadata, long_ago)
        # Of these the newest stays, so that there must be newer ones.
        for table in (decision, evaluation, precompute_run):
            row = {**row_of(table, long_ago, id=new_id()), "created_at": time.time()}
            if "idempotency_key" in row:
                row["idempotency_key"] = None
            await connection.execute(insert(table).values(row))
    await _forget(forgetting)
    await _end_leases(database)  # of the variants that no worker knows
    await _forget(forgetting)
    newest = {"decision": 1, "evaluation": 1, "precompute_run": 1, "lease": 2}
    left = {name: count for name, count in (await counts(database, metadata)).items() if count}
    assert left == newest | dict.fromkeys(KEPT, 1)
    async with database.transaction() as connection:
        kept = select(decision.c.created_at)
        assert float((await connection.execute(kept)).scalar_one()) > _ago(1)


async def test_nothing_that_is_new_goes_and_a_dry_run_changes_nothing(
    database: Database, forgetting: Forgetting
) -> None:
    async with database.transaction() as connection:
        await fill(connection, metadata, time.time())
        await connection.execute(update(archive_embedding).values(run_id=new_id()))
    before = await counts(database, metadata)
    assert not +await _forget(forgetting)
    noted = {"lease": before["lease"] + 2}  # what no worker knows: a variant and a version
    assert await counts(database, metadata) == before | noted
    async with database.transaction() as connection:
        await connection.execute(update(inference).values(created_at=_ago(100)))
    assert await _forget(forgetting, dry=True) == {"inference": 1}
    assert await counts(database, metadata) == before | noted


def _evaluation(version: str, days: float, variant: str = "v", **more: Any) -> Row:
    made = {"variant": variant, "version": version, "id": first_id(_ago(days)), "created_at": _ago(days)}
    return row_of(evaluation, 0.0, feature="ticket-triage", **{**made, **more})


async def test_evaluations_that_something_rests_on_stay(
    database: Database, forgetting: Forgetting, catalogue: Catalogue
) -> None:
    import json

    promoted = json.loads((catalogue.get("ticket-triage").folder / "promoted.json").read_text())
    named = _evaluation("p", 900, "named", id=promoted["edge-v1"]["evaluation"]["id"])
    again = _evaluation("p", 300, "named", id="ffffffff-0000-7000-8000-000000000000")
    of_v = [_evaluation("1", 800), _evaluation("2", 700), _evaluation("2", 600), _evaluation("3", 500)]
    newer = _evaluation("4", 401, "edge-v1")
    await _put(database, evaluation, named, again, *of_v, newer, _evaluation("5", 300, "edge-v1"))
    cases = [row_of(evaluation_case, 0.0, evaluation_id=row["id"]) for row in (named, *of_v)]
    await _put(database, evaluation_case, *cases)
    assert await _forget(forgetting) == {"evaluation": 2, "evaluation_case": 2}
    left = {(row["variant"], row["version"], row["id"]) for row in await rows_in(database, evaluation)}
    kept = (named, of_v[2], of_v[3], newer)
    assert {(row["variant"], row["version"], row["id"]) for row in kept} < left and len(left) == 6


async def test_the_decision_that_holds_stays_however_old(database: Database, forgetting: Forgetting) -> None:
    def made(days: float, to: str, action: str = "advance") -> Row:
        at = {"id": first_id(_ago(days)), "created_at": _ago(days), "action": action}
        return row_of(decision, 0.0, feature="reply", from_stage="limited", to_stage=to, **at)

    rows = [made(5_000, "expand-25"), made(4_900, "limited", "hold"), made(4_800, "expand-50")]
    await _put(database, decision, *rows, made(4_700, "limited", "hold"))
    assert await _forget(forgetting) == {"decision": 2}
    assert [row["to_stage"] for row in await rows_in(database, decision)] == ["expand-50", "limited"]


async def test_ended_runs_go_with_their_parts_and_the_newest_of_each_version_stays(
    database: Database, forgetting: Forgetting
) -> None:
    ledger = Ledger(database)
    runs = []
    for _ in range(3):
        runs.append(await ledger.start(3, 1, variant_version="v1"))
        first, *others = await ledger.claim_all()
        await ledger.finish(first, results_of(first.keys) if len(runs) == 1 else dead_of(first.keys))
        for claim in others:
            await ledger.finish(claim)
    under_way = await ledger.start(2, 1, variant_version="v2")
    whole, failed, newest, young = await _age_runs(database, [*runs, under_way], 40)
    assert (await _forget(forgetting))["precompute_run"] == 1
    assert [row["id"] for row in await rows_in(database, precompute_run)] == [whole, newest, young]
    archive = ArchiveRepository(database)
    assert await archive.last_settled_run("triage", "stored", "v1") == whole
    latest = await ledger.runs.latest("triage", "stored", "v1")
    assert latest and latest.run_id == newest and latest.computed == 2
    assert await ledger.runs.dead_items(newest) == []
    assert (await ledger.progress(young)).chunks == {"done": 1, "pending": 2}
    assert await ledger.count(precomputed_result) == 3
    assert failed not in (whole, newest)


async def _age_runs(database: Database, ids: list[str], days: float) -> list[str]:
    """As if they had been started and ended so long ago; ids hold the time."""
    aged = [first_id(_ago(days) + n) for n in range(len(ids))]
    async with database.transaction() as connection:
        if database.is_sqlite:
            await connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        else:
            await connection.execute(text("SET session_replication_role = replica"))
        for old, new in zip(ids, aged, strict=True):
            for table, column in (
                ("precompute_run", "id"),
                ("precompute_chunk", "run_id"),
                ("dead_item", "run_id"),
            ):
                await connection.execute(
                    text(f"UPDATE {table} SET {column} = :new WHERE {column} = :old"),
                    {"new": new, "old": old},
                )
        run = precompute_run.c
        ended = update(precompute_run).where(run.finished_at.is_not(None))
        await connection.execute(ended.values(finished_at=_ago(days)))
        if not database.is_sqlite:
            await connection.execute(text("SET session_replication_role = DEFAULT"))
    return aged


def _result(key: str, days: float, variant: str = "neighbours-v1") -> Row:
    of = {"feature": "similar-tickets", "variant": variant, "entity_key": key}
    return row_of(precomputed_result, 0.0, computed_at=_ago(days), **of)


async def test_results_go_when_nobody_is_served_them(database: Database, forgetting: Forgetting) -> None:
    await ArchiveRepository(database).put("tickets", {"T-1": {"text": "x"}, "T-2": {"text": "y"}})
    old, gone, fresh = _result("T-1", 91), _result("T-9", 31), _result("T-8", 29)
    await _put(database, precomputed_result, old, gone, fresh, _result("T-2", 89))
    # Without an entity, of a model that no variant names, and one that is fine.
    embedded = [("T-9", "ticket-triage/2"), ("T-1", "ticket-triage/1"), ("T-1", "ticket-triage/2")]
    for days in (31, 1):
        for key, model in embedded:
            of = {"archive": "tickets", "entity_key": key, "model": f"{model}{'' if days > 30 else '-new'}"}
            await _put(
                database, archive_embedding, row_of(archive_embedding, 0, **of, run_id=first_id(_ago(days)))
            )
    wish = {"feature": "gone", "variant": "v", "run_id": None}
    await _put(
        database,
        refresh_request,
        row_of(refresh_request, _ago(31), entity_key="old", **wish),
        row_of(refresh_request, _ago(29), entity_key="young", **wish),
    )
    assert await _forget(forgetting) == {
        "precomputed_result": 2,
        "archive_embedding": 2,
        "refresh_request": 1,
    }
    assert [row["entity_key"] for row in await rows_in(database, precomputed_result)] == ["T-2", "T-8"]
    assert await Ledger(database).count(archive_item) == 2


async def test_what_another_version_of_the_worker_knows_stays(
    database: Database, forgetting: Forgetting, catalogue: Catalogue
) -> None:
    """An old worker beside a new one must not take the new variant's results for those of a gone one."""
    await _put(database, precomputed_result, *(_result(f"T-{n}", 60, "next-v2") for n in range(3)))
    reference = {"feature": "ticket-triage", "variant": "edge-v1", "version": "next"}
    await _put(database, drift_reference, row_of(drift_reference, _ago(500), **reference))
    things = [("result", "similar-tickets", "next-v2"), ("reference", *reference.values())]
    assert not +await _forget(forgetting), "seen for the first time, it may be somebody else's"
    await _end_leases(database)
    await KnownRepository(database).prolong(things, 60)  # by the new worker
    assert not +await _forget(forgetting)
    await _end_leases(database)
    assert await _forget(forgetting, dry=True) == {"precomputed_result": 3, "drift_reference": 1}
    assert await _forget(forgetting) == {"precomputed_result": 3, "drift_reference": 1}


async def test_a_worker_keeps_its_own_known(database: Database, forgetting: Forgetting) -> None:
    await forgetting.know()
    await _put(database, precomputed_result, _result("T-1", 1))
    stranger = Forgetting(database, Catalogue({}), SETTINGS)
    assert not +await _forget(stranger)
    assert await Ledger(database).count(precomputed_result) == 1
    held = (await rows_in(database, lease))[0]["until"] - time.time()
    assert held > 29 * DAY_S


async def test_keys_that_a_row_names_stay(database: Database, forgetting: Forgetting) -> None:
    def key(name: str, **ended: float | None) -> Row:
        own = {"id": name, "sha256": name, "expires_at": None, "revoked_at": None, **ended}
        return row_of(api_key, 0.0, **own)

    await _put(
        database,
        api_key,
        key("valid"),
        key("named", revoked_at=_ago(401)),
        key("revoked", revoked_at=_ago(401)),
        key("expired", expires_at=_ago(401)),
        key("lately", revoked_at=_ago(399), expires_at=_ago(399)),
        key("to expire", expires_at=_ago(-1)),
    )
    await _put(database, attempt, row_of(attempt, time.time(), key_id="named"))
    assert await _forget(forgetting) == {"api_key": 2}
    assert {row["id"] for row in await rows_in(database, api_key)} == {
        "valid",
        "named",
        "lately",
        "to expire",
    }


async def test_what_users_disagree_on_waits_for_a_review(database: Database, tmp_path: Path) -> None:
    manifest = MANIFEST + "recording: {payload: full, retention_days: 10}\n"
    feature = write_sort(tmp_path, manifest=manifest)
    forgetting = Forgetting(database, Catalogue({"sort": feature}), SETTINGS)
    dispute: list[str] = []
    agreed: list[str] = []
    late: list[str] = []
    for days, texts in ((12, dispute), (11, agreed), (41, late)):
        for subject in ("u-1", "u-2"):
            at = {"created_at": _ago(days), "subject_id": subject}
            texts.append(await store_answer(database, f"{days} days ago", "a", **at))
    for about, right in ((dispute, "bc"), (agreed, "bb"), (late, "bc")):
        for one, label in zip(about, right, strict=True):
            await say(database, one, Kind.CORRECTION, label)
    assert await _forget(forgetting, dry=True) == {"inference_payload": 4}
    assert await _forget(forgetting) == {"inference_payload": 4}
    assert not +await _forget(forgetting)

    async def kept() -> set[str]:
        async with database.transaction() as connection:
            with_input = select(inference.c.id).where(inference.c.input.is_not(None))
            return set((await connection.execute(with_input)).scalars())

    assert await kept() == set(dispute), "longer than TRIVIUM_RETENTION_DISPUTED_DAYS nothing waits"
    corrections = CorrectionRepository(database)
    from trivium.domain.sameness import input_hash

    decided = Verdict(input_hash({"text": "12 days ago"}), "drop", None, "ann", "spam", time.time() + 5)
    await corrections.decide("sort", decided)
    # Another process, or the look of the next day.
    assert await _forget(Forgetting(database, Catalogue({"sort": feature}), SETTINGS)) == {
        "inference_payload": 2
    }
    assert await kept() == set()


async def test_without_days_for_disputes_nothing_waits(database: Database, tmp_path: Path) -> None:
    manifest = MANIFEST + "recording: {payload: full, retention_days: 10}\n"
    feature = write_sort(tmp_path, manifest=manifest)
    for subject, right in (("u-1", "b"), ("u-2", "c")):
        one = await store_answer(database, "x", "a", created_at=_ago(11), subject_id=subject)
        await say(database, one, Kind.CORRECTION, right)
    settings = RetentionSettings(retention_disputed_days=0)
    assert await _forget(Forgetting(database, Catalogue({"sort": feature}), settings)) == {
        "inference_payload": 2
    }


FORGET = """
import asyncio, sys
from trivium.retention.forgetting import Forgetting
from trivium.retention.settings import RetentionSettings
from trivium.features import Catalogue
from trivium.store.engine import Database

async def main():
    print("begins", flush=True)
    async for _, step in Forgetting(Database(sys.argv[1]), Catalogue({}), RetentionSettings()).run():
        print(sum(step.counts.values()), flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_process_left_goes_the_next_time(
    database: Database, forgetting: Forgetting, make_inference: Any
) -> None:
    from trivium.store.inferences import InferenceRepository, rows_of

    made = [rows_of(make_inference(created_at=_ago(100))) for _ in range(8_000)]
    await InferenceRepository(database).add([row for row, _ in made], [a for _, some in made for a in some])
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", FORGET, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while process.stdout.readline() not in ("3000\n", ""):
            pass  # a window: a thousand inferences with two attempts each
        process.send_signal(signal.SIGKILL)
    ledger = Ledger(database)
    left = await ledger.count(inference)
    assert 0 < left <= 7_000 and left % 1_000 == 0
    assert await ledger.count(attempt) == 2 * left, "what belongs together goes together"
    assert await _forget(forgetting) == {"inference": left, "attempt": 2 * left}
