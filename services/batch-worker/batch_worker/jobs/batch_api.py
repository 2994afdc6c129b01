"""Results through a vendor's batch API: half the price, within a day, and nothing is paid for twice.

The vendor's id of a batch is stored on the chunk before it is looked at. Before the batch is handed in the
chunk notes that it is about to be: if the worker dies in between, the next one looks for it at the vendor
by its tag. (Anthropic keeps no tags: a batch that was handed in within those milliseconds is paid for
and not used.) While the vendor works the chunk waits, and holds no slot.
"""

import hashlib
from dataclasses import dataclass

import structlog

from batch_worker.jobs.job import Later
from trivium.domain.inference import Attempt
from trivium.domain.precompute import Batch, Dead, Item, Result
from trivium.errors import SchemaViolation
from trivium.features import Feature
from trivium.llm.batches import BATCH_PRICE_SHARE, BatchItem, BatchOutcome, BatchProvider, NotRun
from trivium.llm.prices import Tariff
from trivium.patterns.api import ApiStep
from trivium.patterns.steps import FeatureStep, price
from trivium.precompute.lease import LeaseLost
from trivium.store.chunks import ChunkRepository, Claim

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchApiJob:
    """Hands a chunk's items in as one batch, waits, and takes what came of it.

    What the vendor did not run, or answered with something that does not match the schema, is left to be
    tried one by one by the variants in their order.
    """

    feature: Feature
    step: FeatureStep
    ask: ApiStep
    vendor: BatchProvider
    chunks: ChunkRepository
    poll_s: float
    rows: int

    async def compute(self, claim: Claim, items: list[Item]) -> Batch:
        """See the Protocol.

        Raises:
            Later: the vendor has not ended.
        """
        noted = (claim.cursor or {}).get("batch", {})
        if batch_id := noted.get("id"):
            return await self._collect(batch_id, items)
        found = await self.vendor.find(claim.chunk_id) if noted else None
        if found:
            await self._note(claim, found)
        else:
            await self._hand_in(claim, items)
        raise Later(self.poll_s)

    async def _hand_in(self, claim: Claim, items: list[Item]) -> None:
        await self._note(claim, None)
        asked = [BatchItem(custom_id(item), self.ask.request(item.record)) for item in items]
        await self._note(claim, await self.vendor.submit(asked, claim.chunk_id))

    async def _note(self, claim: Claim, batch_id: str | None) -> None:
        noted = {"batch": {"vendor": self.vendor.name, "id": batch_id}}
        if not await self.chunks.note(claim, noted):
            raise LeaseLost

    async def _collect(self, batch_id: str, items: list[Item]) -> Batch:
        status = await self.vendor.poll(batch_id)
        if not status.ended:
            raise Later(self.poll_s)
        if status.reason != "completed":
            log.warning("vendor_batch_ended", batch=batch_id, reason=status.reason, detail=status.detail)
        # An entity whose input has changed since is not among them: its id is made of the input too.
        waiting = {custom_id(item): item for item in items}
        made = Batch()
        if status.reason != "failed":
            async for outcome in self.vendor.results(batch_id):
                if item := waiting.pop(outcome.custom_id, None):
                    self._take(made, item, outcome)
        made.left += [item.entity_key for item in waiting.values()]
        return made

    def _take(self, made: Batch, item: Item, outcome: BatchOutcome) -> None:
        completion, error = outcome.completion, outcome.error
        attempt = Attempt(self.step.served_by, self.step.target, "ok", 0.0)
        attempt.usage = completion.usage if completion else getattr(error, "usage", None)
        if attempt.usage:
            price(self.feature.name, attempt, Tariff(), BATCH_PRICE_SHARE)
        if completion:
            try:
                answer = self.ask.answer(completion)
                self.feature.check_output(answer.output)
            except SchemaViolation as violation:
                error = violation
            else:
                made.results.append(Result(item, answer.output, None, answer.model, attempt.cost_usd))
                return
        assert error is not None
        if isinstance(error, NotRun | SchemaViolation) or error.retryable:
            made.left.append(item.entity_key)
            made.spent_usd += attempt.cost_usd or 0.0
        else:
            dead = Dead(item.entity_key, item.input_hash, error.code, error.detail, cost_usd=attempt.cost_usd)
            made.dead.append(dead)


def custom_id(item: Item) -> str:
    """What a batch calls an item: 40 hex digits, of its key and its input."""
    return hashlib.sha256(f"{item.entity_key}\0{item.input_hash}".encode()).hexdigest()[:40]
