"""A check of a feature's drift: the reference is made once, windows are compared with it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trivium.domain.drift import DriftReport, Observation
from trivium.drift.columns import Profile, Vectors, packed, unpacked
from trivium.drift.profiles import Embedded, profile_of, to_embed
from trivium.edge import EdgeClient
from trivium.errors import StepError
from trivium.features import Feature
from trivium.store.drift import DriftRepository, Served, StoredReference

MIN_WINDOW = 50
CALL_S = 30.0
AT_ONCE = 64
LATE_S = 3_600.0
"""By so much an inference may be stored late."""
LONGEST = 4_000
"""Characters of a text that are embedded; a model reads fewer."""
Progress = Callable[[str, int, int], None]
"""Is told what is done, and how much of how much."""


@dataclass(frozen=True, slots=True)
class NotEnough:
    """Why there is nothing to say yet."""

    why: str


def served_by(feature: Feature) -> Served:
    """The version that a feature serves."""
    variant = feature.variants[feature.manifest.serve]
    return Served(feature.name, variant.name, variant.version)


class DriftCheck:
    """Checks features by the store's inferences and the edge model's embeddings."""

    def __init__(
        self, repository: DriftRepository, edge: EdgeClient, progress: Progress = lambda *_: None
    ) -> None:
        self._repository = repository
        self._edge = edge
        self._progress = progress
        self._since: dict[Served, float] = {}

    async def reference(self, feature: Feature) -> StoredReference | NotEnough:
        """What is stored, or what the first inferences of the version make; it is stored then.

        Raises:
            StepError: the edge model did not embed. Unavailable: the database is away.
        """
        served, wanted = served_by(feature), feature.manifest.drift.reference
        if stored := await self._repository.reference(served):
            return stored
        looked = time.time()
        first = await self._repository.first(served, wanted, self._since.get(served, 0.0))
        if len(first) < wanted:
            # What is older need not be looked through again.
            self._since[served] = (first[0].at if first else looked) - LATE_S
            return NotEnough(_too_few(served, len(first), wanted))
        return await self.make_reference(feature, first, f"the first {wanted:,} inferences of the version")

    async def reset(self, feature: Feature) -> StoredReference | NotEnough:
        """Makes the newest inferences the reference: what traffic is like now, is right. Raises as above."""
        served, wanted = served_by(feature), feature.manifest.drift.reference
        newest = await self._repository.newest(served, wanted)
        if len(newest) < wanted:
            return NotEnough(_too_few(served, len(newest), wanted))
        told = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(newest[-1].at))
        return await self.make_reference(feature, newest, f"{wanted:,} inferences until {told} UTC")

    async def make_reference(
        self, feature: Feature, observations: Sequence[Observation], source: str, *, dated: bool = True
    ) -> StoredReference:
        """Stores a reference made of observations; `dated` says that windows come after them.

        Raises:
            StepError: the edge model did not embed. Unavailable: the database is away.
        """
        model = await self._resolved(feature.manifest.embedding_model)
        embedded = await self._embedded(feature, observations, model)
        profile = await asyncio.to_thread(profile_of, feature, observations, embedded, model or "")
        until = observations[-1].at if dated else None
        made = StoredReference(source, len(observations), until, packed(profile), time.time())
        await self._repository.put_reference(served_by(feature), made)
        return made

    async def check(
        self,
        feature: Feature,
        reference: StoredReference,
        window: int,
        *,
        after: float | None = None,
        whole: bool = False,
    ) -> DriftReport | NotEnough:
        """Compares the newest inferences after the reference (and after a time) with it.

        With `whole` nothing is said of a window that is not full. An edge model that is away leaves its
        columns out, and the report says so. Raises Unavailable: the database is away.
        """
        served = served_by(feature)
        bounds = [at for at in (reference.until, after) if at is not None]
        rows = await self._repository.newest(served, window, max(bounds, default=None))
        least = window if whole else min(window, MIN_WINDOW)
        if len(rows) < least:
            return NotEnough(
                f"{len(rows):,} inferences of {served.variant} {served.version} since, under {least:,}"
            )
        known = await asyncio.to_thread(unpacked, reference.profile)
        embedding = known.columns.get("embedding")
        model = embedding.model if isinstance(embedding, Vectors) else None
        try:
            embedded = await self._embedded(feature, rows, model)
        except StepError as error:
            embedded = f"the edge model did not embed: {error.detail}"
        self._progress("resampling", 0, 1)
        report = await asyncio.to_thread(_judge, feature, reference, known, rows, embedded, model or "")
        self._progress("resampling", 1, 1)
        return report

    async def _resolved(self, model: str | None) -> str | None:
        """A model with the version that answers now: a reference is of one version."""
        if model is None or "/" in model:
            return model
        return (await self._edge.predict(model, ["?"], ["embedding"], CALL_S)).model

    async def _embedded(
        self, feature: Feature, observations: Sequence[Observation], model: str | None
    ) -> Embedded | str:
        rows, texts = to_embed(feature, observations)
        if model is None:
            return "no variant of the feature has an edge model to embed with"
        vectors: list[list[float]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = [text[:LONGEST] for text in texts[start : start + AT_ONCE]]
            vectors += await self._edge.embed(model, part, CALL_S)
            self._progress("embedding", len(vectors), len(texts))
        return rows, np.asarray(vectors, dtype=np.float32)


def _judge(
    feature: Feature,
    reference: StoredReference,
    known: Profile,
    rows: Sequence[Observation],
    embedded: Embedded | str,
    model: str,
) -> DriftReport:
    # scipy takes half a second to import, which a worker's start need not wait for.
    from trivium.drift.judge import Judge

    served, rate = served_by(feature), feature.manifest.drift.false_discovery_rate
    found = Judge(known, rate).of(profile_of(feature, rows, embedded, model, known))
    return DriftReport(
        *(served.feature, served.variant, served.version, rows[0].at, rows[-1].at, len(rows)),
        *(reference.source, reference.rows, found.resamples, rate, found.columns, found.absent),
    )


def _too_few(served: Served, count: int, wanted: int) -> str:
    return (
        f"{count:,} of the {wanted:,} inferences of {served.variant} {served.version} that a reference "
        "takes (drift.reference in the manifest)"
    )
