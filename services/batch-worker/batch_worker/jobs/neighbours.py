"""Nearest neighbours within an archive: embed what is new, select whose neighbours that changes, compare."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.domain.precompute import Batch, Embedding, Item, Result
from trivium.domain.variants import PrecomputedVariant
from trivium.edge import EdgeClient
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import Claim
from trivium.store.results import ResultRepository

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
CALL_S = 60.0
KEPT = 2
# From so many records on an index (HNSW, approximate) takes less time than to compare all with all.
INDEX_FROM = 50_000
# Above this share of changed records, to find out whose neighbours change costs more than to compare all.
SELECT_UP_TO = 0.25
PAGE = 2_000


@dataclass(slots=True)
class Space:
    """The embedded records of an archive: [n, hidden], rows of unit length, in order of their keys."""

    keys: list[str]
    hashes: list[str]
    runs: list[str | None]
    matrix: Floats
    row_of: dict[str, int] = field(init=False)
    index: Any = None

    def __post_init__(self) -> None:
        self.row_of = {key: row for row, key in enumerate(self.keys)}

    def nearest(self, rows: Rows, k: int) -> tuple[Rows, Floats]:
        """See nearest_others; above INDEX_FROM records by an index, approximately."""
        if len(self.keys) < INDEX_FROM:
            return nearest_others(self.matrix, rows, k)
        return self._by_index(rows, k)

    def _by_index(self, rows: Rows, k: int) -> tuple[Rows, Floats]:
        from usearch.index import Index

        if self.index is None:
            made = Index(ndim=self.matrix.shape[1], metric="ip", dtype="f32")
            made.add(np.arange(len(self.keys)), self.matrix)
            self.index = made
        found = self.index.search(self.matrix[rows], k + 1)
        nearest = np.empty((len(rows), k), dtype=np.int64)
        scores = np.empty((len(rows), k), dtype=np.float32)
        for place, row in enumerate(rows):
            match = found[place] if len(rows) > 1 else found  # one row's matches are no batch
            others = [(int(key), 1.0 - float(d)) for key, d in _pairs(match) if int(key) != row][:k]
            nearest[place] = [key for key, _ in others]
            scores[place] = [score for _, score in others]
        return nearest, scores


class NeighboursJob:
    """The phases of a run over neighbours."""

    rows = 256

    def __init__(
        self,
        spec: PrecomputedVariant,
        archive: ArchiveRepository,
        results: ResultRepository,
        edge: EdgeClient,
        spaces: "Spaces",
    ) -> None:
        assert spec.compute.neighbours
        self._spec = spec
        self._of = spec.compute.neighbours
        self._archive = archive
        self._results = results
        self._edge = edge
        self._spaces = spaces

    @property
    def model(self) -> str:
        """Whose embeddings."""
        return self._of.model

    async def embed(self, keys: Sequence[str]) -> list[Embedding]:
        """Embeddings of those records that are new or have changed."""
        items = await self._archive.items(self._spec.archive, keys)
        known = await self._archive.embedded(self._spec.archive, self.model, keys)
        todo = [item for item in items if known.get(item.entity_key) != item.input_hash]
        texts = [str(item.record.get(self._of.text_field, "")) for item in todo]
        vectors = await self._edge.embed(self.model, texts, CALL_S)
        return [
            Embedding(item.entity_key, item.input_hash, np.asarray(vector, dtype=np.float32).tobytes())
            for item, vector in zip(todo, vectors, strict=True)
        ]

    async def select(self, claim: Claim) -> list[str]:
        """The keys of the entities whose neighbours are, or may be, others than those that are stored."""
        await self._archive.drop_orphans(self._spec.archive, self.model)
        space = await self._spaces.load(claim.run_id, self._spec.archive, self.model)
        if claim.force and claim.source["kind"] != "refresh":
            return space.keys
        only_asked = claim.source["kind"] in ("refresh", "replay")
        changed = {key for key, run in zip(space.keys, space.runs, strict=True) if run == claim.run_id}
        if only_asked:
            changed |= set(claim.source["keys"]) & space.row_of.keys()
        else:
            # Also what runs embedded that were cancelled since, or are another variant's.
            last = await self._archive.last_settled_run(claim.feature, claim.variant, claim.variant_version)
            changed |= {key for key, run in zip(space.keys, space.runs, strict=True) if (run or "") > last}
            if len(changed) > SELECT_UP_TO * len(space.keys):
                return space.keys
        unchanged = space.row_of.keys() - changed
        # -inf: to be compared in any case. That others have no result, or an old one, is not asked.
        kth = np.full(len(space.keys), np.inf if only_asked else -np.inf, dtype=np.float32)
        after = ""
        while page := await self._results.outputs_of(
            claim.feature, claim.variant, claim.variant_version, after, PAGE
        ):
            after = page[-1][0]
            for key, digest, output in page:
                row = space.row_of.get(key)
                similar = output.get("similar", [])
                if row is None or space.hashes[row] != digest:
                    continue
                others = {other["entity_key"] for other in similar}
                holds = len(similar) >= self._of.k and others <= unchanged
                kth[row] = similar[-1]["score"] if holds else -np.inf
        near = await asyncio.to_thread(_nearer_than, space, sorted(changed), kth)
        return [key for row, key in enumerate(space.keys) if near[row] or key in changed]

    async def compute(self, claim: Claim, items: list[Item]) -> Batch:
        """Results of entities: the `k` most similar others, most similar first. See the Protocol."""
        space = await self._spaces.load(claim.run_id, self._spec.archive, self.model)
        known = [item for item in items if item.entity_key in space.row_of]
        rows = np.array([space.row_of[item.entity_key] for item in known], dtype=np.int64)
        k = min(self._of.k, max(len(space.keys) - 1, 0))
        nearest, scores = await asyncio.to_thread(space.nearest, rows, k)
        others = sorted({space.keys[row] for row in nearest.flatten()})
        records = {i.entity_key: i.record for i in await self._archive.items(self._spec.archive, others)}
        made = Batch()
        for place, item in enumerate(known):
            similar = []
            for row, score in zip(nearest[place], scores[place], strict=True):
                record = records.get(space.keys[row], {})
                similar.append(
                    {
                        "entity_key": space.keys[row],
                        "score": round(float(score), 4),
                        "text": str(record.get(self._of.text_field, "")),
                    }
                )
            made.results.append(Result(item, {"similar": similar}, model=self.model))
        return made


@dataclass(slots=True)
class Spaces:
    """The spaces of the latest runs, each loaded once: in the phase that compares, no vector changes."""

    archive: ArchiveRepository
    _kept: OrderedDict[str, Space] = field(default_factory=OrderedDict)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self, run_id: str, archive: str, model: str) -> Space:
        """The space as this worker sees it in a run."""
        async with self._loading:
            if run_id not in self._kept:
                rows = await self.archive.embeddings(archive, model)
                joined = b"".join(vector for *_, vector in rows)
                matrix = np.frombuffer(joined, dtype=np.float32).reshape(len(rows), -1)
                self._kept[run_id] = Space(
                    [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], matrix
                )
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(run_id)
            return self._kept[run_id]


def nearest_others(matrix: Floats, rows: Rows, k: int) -> tuple[Rows, Floats]:
    """The `k` nearest other rows of each of `rows`, by the cosine of unit vectors, exactly.

    Args:
        matrix: [n, hidden], rows of unit length.
        rows: which rows to answer for.
        k: neighbours wanted; fewer where there are no more others.

    Returns:
        Indices and cosines, both [len(rows), min(k, n - 1)], most similar first.
    """
    if not len(rows):
        return np.empty((0, 0), dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    scores = matrix[rows] @ matrix.T
    scores[np.arange(len(rows)), rows] = -np.inf
    k = min(k, matrix.shape[0] - 1)
    best = np.argpartition(-scores, max(k - 1, 0), axis=1)[:, :k]
    best_scores = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-best_scores, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(best_scores, order, axis=1)


def _nearer_than(space: Space, changed: list[str], kth: Floats) -> NDArray[np.bool_]:
    """Which rows have one of the changed nearer than the last of their stored neighbours."""
    if not changed:
        return np.asarray(kth == -np.inf)
    rows = [space.row_of[key] for key in changed]
    best = np.full(len(kth), -np.inf, dtype=np.float32)
    for start in range(0, len(rows), PAGE):
        scores = space.matrix @ space.matrix[rows[start : start + PAGE]].T
        np.maximum(best, scores.max(axis=1), out=best)
    # Stored scores are rounded to four digits.
    return np.asarray((best >= kth - 1e-4) | (kth == -np.inf))


def _pairs(match: Any) -> list[tuple[int, float]]:
    return list(zip(match.keys.tolist(), match.distances.tolist(), strict=True))
