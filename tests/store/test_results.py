import time

from trivium.store.archive import ArchiveRepository, input_hash
from trivium.store.engine import Database
from trivium.store.precompute import PrecomputeRepository
from trivium.store.results import ResultRepository


async def _compute(database: Database, output: str, of: dict[str, str], version: str = "v1") -> None:
    ledger = PrecomputeRepository(database)
    run_id = await ledger.start("similar", "neighbours", version, ["1"], ("compare",), 1)
    ((chunk_id, _),) = await ledger.to_ring(10, time.time())
    claim = await ledger.claim(chunk_id, 60)
    assert claim is not None
    row = {
        "feature": "similar",
        "entity_key": "1",
        "output": {"text": output},
        "input_hash": input_hash(of),
        "variant": "neighbours",
        "variant_version": version,
        "computed_at": time.time(),
        "run_id": run_id,
    }
    assert await ledger.finish(claim, results=[row])


async def test_a_result_comes_with_the_hash_of_the_record_as_it_is_now(database: Database) -> None:
    archive, results = ArchiveRepository(database), ResultRepository(database)
    await archive.put("tickets", {"1": {"t": "old"}})
    await _compute(database, "made of old", {"t": "old"})
    found = await results.find("similar", "tickets", "1")
    assert found is not None
    assert found.output == {"text": "made of old"}
    assert found.variant_version == "v1"
    assert abs(found.computed_at - time.time()) < 5
    assert found.current_input_hash == found.input_hash == input_hash({"t": "old"})

    await archive.put("tickets", {"1": {"t": "new"}})
    changed = await results.find("similar", "tickets", "1")
    assert changed is not None
    assert changed.input_hash == input_hash({"t": "old"})
    assert changed.current_input_hash == input_hash({"t": "new"})


async def test_a_result_whose_record_is_gone_says_so(database: Database) -> None:
    archive, results = ArchiveRepository(database), ResultRepository(database)
    await archive.put("tickets", {"1": {}})
    await archive.put("other", {"1": {}})
    await _compute(database, "kept", {})
    await archive.replace("tickets", {})
    found = await results.find("similar", "tickets", "1")
    assert found is not None
    assert found.output == {"text": "kept"}
    assert found.current_input_hash is None


async def test_a_newer_run_replaces_the_result(database: Database) -> None:
    results = ResultRepository(database)
    await _compute(database, "first", {}, "v1")
    await _compute(database, "second", {}, "v2")
    found = await results.find("similar", "tickets", "1")
    assert found is not None
    assert (found.output, found.variant_version) == ({"text": "second"}, "v2")


async def test_another_feature_or_entity_has_no_result(database: Database) -> None:
    await ArchiveRepository(database).put("tickets", {"1": {}, "2": {}})
    await _compute(database, "one", {})
    results = ResultRepository(database)
    assert await results.find("similar", "tickets", "2") is None
    assert await results.find("other", "tickets", "1") is None
