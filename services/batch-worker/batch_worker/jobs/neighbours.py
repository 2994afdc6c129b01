"""Nearest neighbours within an archive, in two phases: embed every record, then compare all."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.domain.manifest import PrecomputedVariant
from trivium.edge import EdgeClient
from trivium.store.archive import ArchiveRepository
from trivium.store.precompute import Claim

Row = dict[str, Any]
Floats = NDArray[np.float32]
TEXTS_A_CALL = 64
CALL_S = 30.0


@dataclass(frozen=True, slots=True)
class NeighboursJob:
    """What both phases need."""

    archive: ArchiveRepository
    edge: EdgeClient

    async def embed(self, claim: Claim, spec: PrecomputedVariant) -> list[Row]:
        """Embeddings of the chunk's records that are new or have changed."""
        of = spec.compute.neighbours
        items = await self.archive.between(spec.archive, claim.first_key, claim.last_key)
        known = await self.archive.embedded(spec.archive, of.model, claim.first_key, claim.last_key)
        todo = [item for item in items if known.get(item["entity_key"]) != item["input_hash"]]
        rows: list[Row] = []
        for start in range(0, len(todo), TEXTS_A_CALL):
            part = todo[start : start + TEXTS_A_CALL]
            texts = [str(item["record"].get(of.text_field, "")) for item in part]
            prediction = await self.edge.predict(of.model, texts, ["embedding"], CALL_S)
            rows += [
                {
                    "archive": spec.archive,
                    "entity_key": item["entity_key"],
                    "model": of.model,
                    "input_hash": item["input_hash"],
                    "vector": np.asarray(vector, dtype=np.float32).tobytes(),
                }
                for item, vector in zip(part, prediction.outputs["embedding"], strict=True)
            ]
        return rows

    async def compare(self, claim: Claim, spec: PrecomputedVariant) -> list[Row]:
        """Results of the chunk's entities: the `k` most similar others, most similar first."""
        of = spec.compute.neighbours
        embedded = await self.archive.embeddings(spec.archive, of.model)
        keys = [key for key, _, _, _ in embedded]
        mine = [row for row, key in enumerate(keys) if claim.first_key <= key <= claim.last_key]
        matrix = np.frombuffer(b"".join(vector for *_, vector in embedded), dtype=np.float32)
        matrix = matrix.reshape(len(keys), -1) if keys else matrix
        nearest, scores = await asyncio.to_thread(nearest_others, matrix, np.array(mine), of.k)
        now = time.time()
        return [
            {
                "feature": claim.feature,
                "entity_key": keys[row],
                "output": {
                    "similar": [
                        {
                            "entity_key": keys[other],
                            "score": round(float(score), 4),
                            "text": str(embedded[other][2].get(of.text_field, "")),
                        }
                        for other, score in zip(nearest[place], scores[place], strict=True)
                    ]
                },
                "input_hash": embedded[row][1],
                "variant": claim.variant,
                "variant_version": claim.variant_version,
                "computed_at": now,
                "run_id": claim.run_id,
            }
            for place, row in enumerate(mine)
        ]


def nearest_others(matrix: Floats, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Floats]:
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
