"""Nearest neighbours: they are right, and so is what a run takes for unchanged."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import delete

from batch_worker.jobs import neighbours
from batch_worker.jobs.neighbours import NeighboursJob, Space, Spaces, nearest_others
from support.ledger import Ledger
from trivium.domain.precompute import Batch, Embedding
from trivium.domain.variants import Compute, Neighbours, PrecomputedVariant
from trivium.edge import EdgeClient
from trivium.precompute.importing import Importer
from trivium.precompute.sources import of_archive
from trivium.store.archive import Record
from trivium.store.chunks import Claim
from trivium.store.engine import Database
from trivium.store.results import Refresh, ResultRepository
from trivium.store.runs import NewRun
from trivium.store.tables import precomputed_result

Floats = NDArray[np.float32]
ARCHIVE, MODEL, K, WIDTH = "tickets", "m/1", 5, 12


def _unit(rows: int, width: int, seed: int = 1) -> Floats:
    made = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    lengths = np.linalg.norm(made, axis=1, keepdims=True).astype(np.float32)
    return np.asarray(made / lengths, dtype=np.float32)


def _space(matrix: Floats) -> Space:
    count = len(matrix)
    return Space([f"{n:05d}" for n in range(count)], ["h"] * count, [None] * count, matrix)


@pytest.mark.parametrize(("rows", "k"), [(2, 5), (6, 5), (7, 5), (200, 5), (200, 100), (50, 1)])
def test_the_nearest_others_are_those_of_a_plain_sort(rows: int, k: int) -> None:
    matrix = _unit(rows, 16)
    asked = np.array([0, rows // 2, rows - 1])
    nearest, scores = nearest_others(matrix, asked, k)
    assert nearest.shape == scores.shape == (3, min(k, rows - 1))
    for place, row in enumerate(asked):
        cosines = matrix @ matrix[row]
        others = [other for other in np.argsort(-cosines) if other != row][:k]
        assert nearest[place].tolist() == others
        assert np.allclose(scores[place], cosines[others], atol=1e-5)


def test_an_entity_alone_has_no_others_and_nobody_asked_gets_nothing() -> None:
    nearest, scores = nearest_others(_unit(1, 8), np.array([0]), 5)
    assert nearest.shape == scores.shape == (1, 0)
    assert nearest_others(_unit(3, 8), np.array([], dtype=np.int64), 5)[0].shape[0] == 0


def test_twins_find_each_other_but_never_themselves() -> None:
    matrix = _unit(10, 8)
    matrix[7] = matrix[3]
    nearest, scores = nearest_others(matrix, np.array([3, 7]), 2)
    assert nearest[:, 0].tolist() == [7, 3]
    assert np.allclose(scores[:, 0], 1, atol=1e-5)


def test_an_index_finds_nearly_all_that_an_exact_search_does(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, rows = _unit(3_000, 48), np.arange(3_000)
    exact, cosines = nearest_others(matrix, rows, K)
    monkeypatch.setattr(neighbours, "INDEX_FROM", 1_000)
    found, scores = _space(matrix).nearest(rows, K)
    assert found.shape == scores.shape == exact.shape
    assert np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)]) > 0.95
    same = found[:, 0] == exact[:, 0]
    assert np.allclose(scores[same, 0], cosines[same, 0], atol=1e-4)
    assert not (found == rows[:, None]).any(), "nobody is a neighbour of itself"
    assert (np.diff(scores, axis=1) <= 1e-6).all(), "the most similar comes first"


@pytest.mark.parametrize("asked", [[7], [7, 9], []], ids=["one entity", "two", "none"])
def test_an_index_answers_for_any_number_of_entities(
    monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    matrix, rows = _unit(200, 16), np.array(asked, dtype=np.int64)
    exact, _ = nearest_others(matrix, rows, K)
    monkeypatch.setattr(neighbours, "INDEX_FROM", 100)
    found, scores = _space(matrix).nearest(rows, K)
    assert len(found) == len(scores) == len(asked)
    for near, nearest in zip(found, exact, strict=True):
        assert len(set(near) & set(nearest)) >= K - 1


def test_an_index_over_many_twins_answers_with_as_many_as_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.repeat(_unit(50, 16), 30, axis=0)
    monkeypatch.setattr(neighbours, "INDEX_FROM", 100)
    found, scores = _space(matrix).nearest(np.arange(len(matrix)), 40)
    assert found.shape == (1_500, 40)
    assert (found >= 0).all() and (found < 1_500).all()
    assert {len(set(row)) for row in found} == {40}
    assert np.mean(scores[:, 0] > 0.999) > 0.9, "twins lie so close that an index may miss some"


@dataclass
class World:
    """An archive whose records carry their vectors, and runs over it that a test plays phase by phase."""

    ledger: Ledger
    edge: EdgeClient
    records: dict[str, Record] = field(default_factory=dict)
    spec: PrecomputedVariant = field(
        default_factory=lambda: PrecomputedVariant(
            pattern="precomputed",
            archive=ARCHIVE,
            compute=Compute(neighbours=Neighbours(model=MODEL, k=K)),
        )
    )

    def __post_init__(self) -> None:
        self.results = ResultRepository(self.ledger.database)
        self.random = np.random.default_rng(1)
        self.restart()

    def restart(self) -> None:
        """Another worker: it remembers nothing."""
        archive = self.ledger.archive
        self.job = NeighboursJob(self.spec, archive, self.results, self.edge, Spaces(archive))

    def record(self, near: str | None = None) -> Record:
        """A record anywhere on the sphere, or near another's."""
        vector = self.random.normal(size=WIDTH)
        if near is not None:
            vector = np.array(self.records[near]["vector"]) + 0.05 * vector / np.linalg.norm(vector)
        unit = (vector / np.linalg.norm(vector)).astype(np.float32)
        return {"text": f"text {self.random.integers(1 << 40)}", "vector": unit.tolist()}

    async def store(self) -> None:
        """Makes the archive what `records` are."""
        await self.ledger.archive.replace(ARCHIVE, self.records)

    async def begin(self, variant: str = "v", **options: Any) -> str:
        """A run over the archive, imported."""
        new = NewRun("similar", variant, "1", {"kind": "archive"}, selects=True, **options)
        run_id, _ = await self.ledger.runs.start(new, lease_s=60)
        claim = await self.ledger.chunks.held_import(run_id)
        importer = Importer(self.ledger.database, self.ledger.chunks, self.ledger.archive)
        await importer.run(claim, self.spec, of_archive(self.ledger.archive, ARCHIVE, 64))
        return run_id

    async def wish(self, key: str, record: Record) -> None:
        """A run that takes a newer record of one entity."""
        await self.results.ask([Refresh("similar", "v", key, "input", record)])
        new = NewRun("similar", "v", "1", {"kind": "refresh"}, trigger="refresh", force=True, selects=True)
        assert await self.ledger.runs.start_refresh(new, 10) == 1
        self.records[key] = record
        await self.ledger.archive.put(ARCHIVE, {key: record})

    async def embed(self) -> None:
        """The phase before the one under test; the vectors are those of the records."""
        for claim in await self.ledger.claim_all():
            items = await self.ledger.archive.items(ARCHIVE, claim.keys)
            known = await self.ledger.archive.embedded(ARCHIVE, MODEL, claim.keys)
            made = [
                Embedding(i.entity_key, i.input_hash, _vector(i.record).tobytes())
                for i in items
                if known.get(i.entity_key) != i.input_hash
            ]
            assert await self.ledger.chunks.checkpoint(
                claim, Batch(embeddings=made), ends=True, archive=ARCHIVE, model=MODEL
            )

    async def select(self) -> tuple[Claim, set[str]]:
        """The claim of the chunk that selects, and what it selects."""
        claim = await self.ledger.claim()
        return claim, set(await self.job.select(claim))

    async def compute(self, claim: Claim, keys: Sequence[str]) -> None:
        """Computes what was selected, to the run's end."""
        following = [("compute", sorted(keys))] if keys else []
        assert await self.ledger.chunks.checkpoint(claim, Batch(), ends=True, following=following)
        for one in await self.ledger.claim_all():
            found = await self.ledger.chunks.find(one, ARCHIVE, one.keys, force=True)
            assert await self.ledger.finish(one, await self.job.compute(one, found.items))

    async def finish(self) -> set[str]:
        """The rest of a run; returns what it selected."""
        await self.embed()
        claim, keys = await self.select()
        await self.compute(claim, sorted(keys))
        return keys

    async def run(self, variant: str = "v", **options: Any) -> set[str]:
        """A whole run; returns what it selected."""
        run_id = await self.begin(variant, **options)
        keys = await self.finish()
        assert (await self.ledger.progress(run_id)).state == "done"
        return keys

    def truth(self) -> dict[str, dict[str, float]]:
        """The neighbours of every entity, computed anew."""
        keys = sorted(self.records)
        matrix = np.stack([_vector(self.records[key]) for key in keys])
        nearest, scores = nearest_others(matrix, np.arange(len(keys)), K)
        return {
            key: {keys[row]: float(score) for row, score in zip(nearest[place], scores[place], strict=True)}
            for place, key in enumerate(keys)
        }

    async def wrong(self, variant: str = "v") -> set[str]:
        """The entities whose stored neighbours, scores or texts are not true (any more)."""
        stored = await self.results.outputs_of("similar", variant, "1", "", 100_000)
        told = {key: output["similar"] for key, _, output in stored}
        return {key for key, true in self.truth().items() if not self._same(told.get(key), true)}

    def _same(self, told: list[dict[str, Any]] | None, true: dict[str, float]) -> bool:
        if told is None or {one["entity_key"] for one in told} != set(true):
            return False
        return all(
            abs(one["score"] - true[one["entity_key"]]) < 2e-4
            and one["text"] == self.records[one["entity_key"]]["text"]
            for one in told
        )


def _vector(record: Record) -> Floats:
    return np.asarray(record["vector"], dtype=np.float32)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """150 entities on a sphere, and all their neighbours stored."""
    async with aiohttp.ClientSession() as session:
        made = World(Ledger(database), EdgeClient("http://127.0.0.1:9", "", session))
        made.records = {f"T-{n:03d}": made.record() for n in range(150)}
        await made.store()
        assert await made.run() == set(made.records)
        assert await made.wrong() == set()
        yield made


async def test_a_run_after_which_nothing_changed_selects_nothing(world: World) -> None:
    assert await world.run() == set()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_changes_all_whose_neighbours_change_are_selected_and_few_others(
    world: World, seed: int
) -> None:
    world.random = random = np.random.default_rng(seed)
    for turn in range(6):
        keys = [str(key) for key in random.permutation(sorted(world.records))]
        removed = [keys.pop() for _ in range(random.integers(3))]
        changed = {keys[n]: world.record(keys[-n - 1] if n % 2 else None) for n in range(random.integers(3))}
        added = {f"N-{seed}-{turn}-{n}": world.record(keys[n]) for n in range(random.integers(3))}
        world.records = {key: world.records[key] for key in keys} | changed | added
        await world.store()
        await world.begin()
        await world.embed()
        wrong = await world.wrong()
        claim, selected = await world.select()
        assert wrong <= selected, (removed, list(changed), list(added))
        assert len(selected) <= len(wrong) + 5 < len(world.records) / 2
        await world.compute(claim, sorted(selected))
        assert await world.wrong() == set()


async def test_above_a_share_of_changes_all_are_selected(world: World) -> None:
    for key in sorted(world.records)[:60]:
        world.records[key] = world.record()
    await world.store()
    assert await world.run() == set(world.records)


async def test_a_forced_run_selects_all(world: World) -> None:
    assert await world.run(force=True) == set(world.records)


async def test_an_entity_whose_run_is_of_another_version_is_selected(world: World) -> None:
    new = NewRun("similar", "v", "2", {"kind": "archive"}, selects=True)
    run_id, _ = await world.ledger.runs.start(new, lease_s=60)
    claim = await world.ledger.chunks.held_import(run_id)
    importer = Importer(world.ledger.database, world.ledger.chunks, world.ledger.archive)
    await importer.run(claim, world.spec, of_archive(world.ledger.archive, ARCHIVE, 64))
    assert await world.finish() == set(world.records)


async def test_while_there_are_fewer_others_than_are_wanted_each_new_one_counts(database: Database) -> None:
    async with aiohttp.ClientSession() as session:
        world = World(Ledger(database), EdgeClient("http://127.0.0.1:9", "", session))
        for n in range(K + 4):
            world.records[f"T-{n}"] = world.record()
            await world.store()
            await world.run()
            assert await world.wrong() == set()


async def test_a_refresh_also_updates_those_near_which_the_entity_was_and_is(world: World) -> None:
    for key, near in (("T-007", "T-100"), ("T-008", None), ("N-1", "T-050")):
        await world.wish(key, world.record(near))
        selected = await world.finish()
        assert key in selected
        assert len(selected) < 60, "what has nothing to do with it is left alone"
        assert await world.wrong() == set()


async def test_a_refresh_among_few_reaches_all(database: Database) -> None:
    async with aiohttp.ClientSession() as session:
        world = World(Ledger(database), EdgeClient("http://127.0.0.1:9", "", session))
        world.records = {f"T-{n}": world.record() for n in range(3)}
        await world.store()
        await world.run()
        await world.wish("T-9", world.record())
        await world.finish()
        assert await world.wrong() == set()


async def test_a_refresh_does_not_compute_what_has_no_result_yet(world: World) -> None:
    async with world.ledger.database.transaction() as connection:
        some = precomputed_result.c.entity_key < "T-050"
        await connection.execute(delete(precomputed_result).where(some))
    await world.wish("T-100", world.record())
    selected = await world.finish()
    assert {key for key in selected if key < "T-050"} == set()


@pytest.mark.parametrize("cancelled_after", ["embed", "half"])
async def test_after_a_run_that_was_cancelled_the_next_misses_nothing_of_it(
    world: World, cancelled_after: str
) -> None:
    for key, near in (("T-007", "T-100"), ("N-1", "T-050")):
        world.records[key] = world.record(near)
    await world.store()
    run_id = await world.begin()
    await world.embed()
    if cancelled_after == "half":
        claim, keys = await world.select()
        ones = [("compute", [key]) for key in sorted(keys)]
        assert await world.ledger.chunks.checkpoint(claim, Batch(), ends=True, following=ones)
        for one in [await world.ledger.claim() for _ in range(len(keys) // 2)]:
            found = await world.ledger.chunks.find(one, ARCHIVE, one.keys, force=True)
            await world.ledger.finish(one, await world.job.compute(one, found.items))
    await world.ledger.runs.cancel(run_id)
    selected = await world.run()
    assert await world.wrong() == set()
    assert len(selected) < 60


async def test_what_another_variant_embedded_is_new_for_this_one(world: World) -> None:
    await world.run("w")
    world.records["T-007"] = world.record("T-100")
    world.records["N-1"] = world.record("T-050")
    del world.records["T-020"]
    await world.store()
    await world.run("w")
    assert await world.wrong("w") == set()
    selected = await world.run("v")
    assert await world.wrong("v") == set()
    assert len(selected) < 60


async def test_a_selection_that_is_made_again_misses_nothing(world: World) -> None:
    del world.records["T-007"]
    await world.store()
    await world.begin()
    await world.embed()
    wrong = await world.wrong()
    claim, first = await world.select()
    await world.ledger.chunks.hand_back(claim)  # its worker ends
    world.restart()
    claim, second = await world.select()
    assert wrong and wrong <= first and wrong <= second
    await world.compute(claim, sorted(second))
    assert await world.wrong() == set()


async def test_an_entity_that_is_not_embedded_yet_is_left_for_the_next_run(world: World) -> None:
    await world.begin(force=True)
    await world.embed()
    claim, _ = await world.select()
    await world.ledger.archive.put(ARCHIVE, {"late": world.record()})
    items = await world.ledger.archive.items(ARCHIVE, ["late", "T-001"])
    made = await world.job.compute(claim, items)
    assert [result.item.entity_key for result in made.results] == ["T-001"]
    assert (await world.job.compute(claim, items[1:])).results == []
