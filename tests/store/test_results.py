import time
from typing import Any

import pytest
from sqlalchemy import event, update

from support.ledger import ARCHIVE, Ledger, keys_of, record_of
from trivium.store.archive import input_hash
from trivium.store.engine import Database
from trivium.store.results import Refresh, ResultRepository
from trivium.store.tables import precomputed_result, refresh_request


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    """Three entities, of which two have a result."""
    made = Ledger(database)
    await made.start(2, 2)
    await made.finish(await made.claim())
    await made.archive.put(ARCHIVE, {"new": record_of("new")})
    return made


async def test_what_there_is_of_entities_comes_in_the_order_of_their_keys(ledger: Ledger) -> None:
    results = ResultRepository(ledger.database)
    keys = ["new", "K-00001", "nobody", "K-00000"]
    found = await results.find("triage", "stored", ARCHIVE, keys)
    assert [one.entity_key for one in found] == keys
    assert [one.output for one in found] == [None, {"label": "x"}, None, {"label": "x"}]
    assert [one.current_input_hash is None for one in found] == [False, False, True, False]
    assert found[1].input_hash == found[1].current_input_hash == input_hash(record_of("K-00001"))
    assert abs(found[1].computed_at - time.time()) < 5
    assert [one.output for one in await results.find("triage", "other", ARCHIVE, keys)] == [None] * 4


async def test_a_hundred_results_are_one_query(ledger: Ledger) -> None:
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    results = ResultRepository(ledger.database)
    async with ledger.database.reading() as connection:
        engine = connection.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        assert len(await results.find("triage", "stored", ARCHIVE, keys_of(100))) == 100
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(seen) == 1


async def test_a_changed_record_shows_beside_its_old_result(ledger: Ledger) -> None:
    await ledger.archive.put(ARCHIVE, {"K-00000": {"text": "changed"}})
    (found,) = await ResultRepository(ledger.database).find("triage", "stored", ARCHIVE, ["K-00000"])
    assert found.input_hash == input_hash(record_of("K-00000"))
    assert found.current_input_hash == input_hash({"text": "changed"})


async def test_a_wish_is_noted_once_an_entity(ledger: Ledger) -> None:
    results = ResultRepository(ledger.database)
    wish = Refresh("triage", "stored", "K-00000", "input", {"text": "newer"})
    await results.ask([wish, Refresh("triage", "stored", "K-00001", "age")])
    await results.ask([Refresh("triage", "stored", "K-00000", "age")])
    assert await ledger.count(refresh_request) == 2
    assert await results.wanted() == [("triage", "stored")]
    wished = await results.records_wished("triage", "stored", ["K-00000", "K-00001"])
    assert wished == {"K-00000": {"text": "newer"}}


async def test_what_is_stored_is_counted_with_its_size(ledger: Ledger) -> None:
    (stored,) = await ResultRepository(ledger.database).stored()
    assert (stored.feature, stored.variant, stored.rows) == ("triage", "stored", 2)
    assert 100 < stored.bytes < 2_000


@pytest.mark.parametrize(
    ("archive", "hours", "left"),
    [(None, None, 0), (ARCHIVE, None, 2), ("other", None, 0), (ARCHIVE, 1, 1)],
    ids=["a variant that is gone", "entities that are there", "entities that are gone", "old results"],
)
async def test_results_are_pruned_by_what_can_no_longer_be_served(
    ledger: Ledger, archive: str | None, hours: float | None, left: int
) -> None:
    results = ResultRepository(ledger.database)
    result = precomputed_result.c
    async with ledger.database.transaction() as connection:
        old = update(precomputed_result).where(result.entity_key == "K-00000")
        await connection.execute(old.values(computed_at=time.time() - 7200))
    before = None if hours is None else time.time() - hours * 3600
    told = await results.count_to_prune("triage", "stored", archive=archive, before=before)
    gone = 0
    while some := await results.prune("triage", "stored", archive=archive, before=before):
        gone += some
    assert (told, gone) == (2 - left, 2 - left)
    assert await ledger.count(precomputed_result) == left


async def test_keys_of_any_kind_are_found_also_twice(ledger: Ledger) -> None:
    odd = ["a'b", 'a"b', "a\\b", "日本", "🙂", " ", "{}", "a,b", "%", "\u2028"]
    await ledger.archive.put(ARCHIVE, {key: {"text": key} for key in odd})
    results = ResultRepository(ledger.database)
    found = await results.find("triage", "stored", ARCHIVE, [*odd, *reversed(odd)])
    assert [one.entity_key for one in found] == [*odd, *reversed(odd)]
    assert [one.current_input_hash for one in found[: len(odd)]] == [input_hash({"text": k}) for k in odd]
    assert await results.find("triage", "stored", ARCHIVE, []) == []


async def test_a_result_whose_entity_is_gone_is_still_found(ledger: Ledger) -> None:
    await ledger.archive.replace(ARCHIVE, {})
    (found,) = await ResultRepository(ledger.database).find("triage", "stored", ARCHIVE, ["K-00000"])
    assert (found.current_input_hash, found.output) == (None, {"label": "x"})


async def test_results_are_pruned_in_portions_that_end(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.results.PRUNE_ROWS", 3)
    await ledger.start(8, 8, variant="old")
    await ledger.finish(await ledger.claim())
    results = ResultRepository(ledger.database)
    portions = []
    while some := await results.prune("triage", "old", archive=None, before=None):
        portions.append(some)
    assert portions == [3, 3, 2]
    assert [(one.variant, one.rows) for one in await results.stored()] == [("stored", 2)]


async def test_outputs_of_a_version_come_in_pages_in_order_of_their_keys(ledger: Ledger) -> None:
    results = ResultRepository(ledger.database)
    first = await results.outputs_of("triage", "stored", "v1", "", 1)
    rest = await results.outputs_of("triage", "stored", "v1", first[-1][0], 5)
    assert [key for key, _, _ in first + rest] == keys_of(2)
    assert first[0][1:] == (input_hash(record_of("K-00000")), {"label": "x"})
    assert await results.outputs_of("triage", "stored", "v2", "", 5) == []


async def test_nothing_is_stored_of_an_empty_database(database: Database) -> None:
    results = ResultRepository(database)
    assert await results.stored() == []
    assert await results.wanted() == []
    await results.ask([])
