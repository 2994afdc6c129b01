"""Moves what happened to the database, off the hot path: journal first, database in batches."""

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import structlog

from trivium.domain.feedback import Feedback
from trivium.domain.inference import Attempt, Inference
from trivium.domain.recording import Keeping
from trivium.errors import Unavailable
from trivium.metrics import JOURNAL_FILL, QUEUE_DEPTH, RECORDS_DROPPED
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, attempt_rows, rows_of
from trivium.store.journal import Journal, Record, read_segment
from trivium.store.shadows import ShadowRepository
from trivium.telemetry import run_in_background
from trivium.waiting import TookTooLong, at_most

log = structlog.get_logger()
FLUSH_S = 0.2
RETRY_S = 2.0
BATCH = 500
FEEDBACK_S = 1.0
RECENT = 2_000
EVERYTHING = Keeping()


class Recorder:
    """Takes inferences and feedback; a background task carries them to the database."""

    def __init__(
        self,
        journal: Journal,
        inferences: InferenceRepository,
        feedback: FeedbackRepository,
        shadows: ShadowRepository,
    ) -> None:
        self._journal = journal
        self._inferences = inferences
        self._feedback = feedback
        self._shadows = shadows
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        QUEUE_DEPTH.labels("journal").set_function(lambda: journal.waiting)
        JOURNAL_FILL.set_function(lambda: journal.fill)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to carry records over."""
        self._task = run_in_background(self._run(), "recorder")

    async def stop(self) -> None:
        """Carries over what is left, if the database is there; what is not stays for the next start."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(5):
                await self.flush()
        self._journal.close()

    def record(self, made: Inference, keeping: Keeping = EVERYTHING) -> None:
        """Notes an inference, as much of it as is to be kept; never waits for the database.

        In memory the whole of it stays for a while, for the caller to read back.
        """
        row, attempts = rows_of(made)
        kept = keeping.of(made.id, row["input"], row["output"])
        if not self._journal.append({"inference": {**row, **kept}, "attempts": attempts}):
            RECORDS_DROPPED.inc()
            return
        self._recent[made.id] = row
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def record_shadow(self, row: Record, name: str, attempts: list[Attempt]) -> None:
        """Notes what a candidate answered, and in the ledger under `name` what that cost."""
        tried = attempt_rows(row["id"], name, None, row["created_at"], attempts)
        if not self._journal.append({"shadow": row, "attempts": tried}):
            RECORDS_DROPPED.inc()

    async def take_feedback(self, event: Feedback) -> tuple[Feedback, bool]:
        """Stores an event durably: in the database, or in the journal if that is away.

        Returns the stored event, and whether it reached the database.
        """
        try:
            return await at_most(FEEDBACK_S, self._feedback.add(event)), True
        except (Unavailable, TookTooLong):
            record = {"feedback": asdict(event)}
            self._journal.append(record, durable=True)
            return event, False

    async def find(self, inference_id: str) -> dict[str, Any] | None:
        """An inference's row: from memory if it is recent, else from the database."""
        return self._recent.get(inference_id) or await self._inferences.find(inference_id)

    async def settle(
        self, row: dict[str, Any], change: dict[str, Any], keeping: Keeping = EVERYTHING
    ) -> dict[str, Any]:
        """Gives an inference that was generating its answer, once; returns its row as it stands then.

        The answer to one that still waits in the journal waits there too, behind it.
        """
        own = str(row["id"])
        stored = {**change}
        if "output" in change:
            stored["output"] = keeping.of(own, None, change["output"])["output"]
        settled = await self._inferences.settle(own, stored)
        if settled is None:
            recent = self._recent.get(own, row)
            if recent["status"] == "done":  # by another reader, at the same time
                return recent
            self._journal.append({"settled": {"inference_id": own, "change": stored}})
            settled = {**row, **change}
        elif settled["output"] is None and "output" in change:
            settled = {**settled, "output": change["output"]}
        if own in self._recent:
            self._recent[own] = settled
        return settled

    async def flush(self) -> None:
        """Carries every ended segment over; raises Unavailable if the database is away."""
        segments, filed = self._journal.closed_segments(), self._journal.filed
        for segment in segments:
            await self._carry(segment)
            self._journal.forget(segment)
        self._journal.filed -= filed
        await self._carry_held()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Unavailable:
                log.warning("database_away", waiting=self._journal.waiting)
                await asyncio.sleep(RETRY_S)

    async def _carry_held(self) -> None:
        """What the disk did not take, straight from memory."""
        held = self._journal.take_held()
        try:
            while batch := held[:BATCH]:
                await self._store_or_set_aside(self._journal.root, batch)
                del held[: len(batch)]
        finally:
            if (kept := self._journal.hold(held)) < len(held):
                RECORDS_DROPPED.inc(len(held) - kept)

    async def _carry(self, segment: Path) -> None:
        records = await asyncio.to_thread(lambda: list(read_segment(segment)))
        for batch in _portions(records):
            await self._store_or_set_aside(segment.parents[1], batch)

    async def _store_or_set_aside(self, root: Path, batch: list[Record]) -> None:
        try:
            await self._store(batch)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the good records must get through
            await self._store_one_by_one(root, batch)

    async def _store(self, batch: list[Record]) -> None:
        made = [r for r in batch if "inference" in r]
        if made:
            attempts = [row for r in made for row in r["attempts"]]
            await self._inferences.add([r["inference"] for r in made], attempts)
        if seen := [r for r in batch if "shadow" in r]:
            attempts = [row for r in seen for row in r["attempts"]]
            await self._shadows.add([r["shadow"] for r in seen], attempts)
        for settled in [r["settled"] for r in batch if "settled" in r]:
            await self._inferences.settle(**settled)
        if events := [r["feedback"] for r in batch if "feedback" in r]:
            await self._feedback.add_rows(events)

    async def _store_one_by_one(self, root: Path, batch: list[Record]) -> None:
        """A batch that the database refuses has a bad record: it is set aside, the others are stored."""
        for record in batch:
            try:
                await self._store([record])
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - it is set aside, with its reason in the log
                rejected = root / "rejected.jsonl"
                log.error("record_rejected", file=str(rejected), error=str(error.__cause__ or error))
                line = orjson.dumps({"at": time.time(), **record}, default=str)
                try:
                    with rejected.open("ab") as stream:
                        stream.write(line + b"\n")
                except OSError:
                    RECORDS_DROPPED.inc()


def _portions(records: list[Record]) -> list[list[Record]]:
    """What is stored in one transaction."""
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
