"""Results of the feature's own edge and api variants: the requests' chain, walked ahead of them."""

import asyncio
from dataclasses import dataclass

from trivium.domain.breaker import Breakers
from trivium.domain.fallback import Deadline, drawn, run_chain, static_step
from trivium.domain.inference import Attempt, Question, StepAnswer
from trivium.domain.precompute import Batch, Dead, Item, Result
from trivium.errors import ConnectionFailed, LowConfidence, OutOfScope, Overloaded, SchemaViolation, StepError
from trivium.features import Feature
from trivium.llm.prices import Tariff
from trivium.patterns.edge import EdgeStep
from trivium.patterns.steps import FeatureStep, price
from trivium.store.chunks import Claim

ABSTAINED = frozenset({LowConfidence.code, OutOfScope.code})
# An entity has time: nobody waits for it.
ITEM_S = 60.0
# Large enough to go into the edge model's lane that lets requests of users pass.
ROWS_A_CALL = 1024
CALL_S = 60.0
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class VariantsJob:
    """Computes items with steps; those of a first edge step go through it many at once."""

    feature: Feature
    steps: list[FeatureStep]
    breakers: Breakers
    at_once: int
    tariff: Tariff
    away_codes: frozenset[str]
    rows: int = 0

    async def compute(self, claim: Claim, items: list[Item]) -> Batch:
        """See the Protocol. What no step can answer is dead; what none could be asked is tried later."""
        made = Batch()
        first = self.steps[0]
        if isinstance(first.ask, EdgeStep):
            left = await self._at_the_edge(first.ask, items, made)
        else:
            left = [(item, None) for item in items]
        gate = asyncio.Semaphore(self.at_once)
        rest = self.steps[1:] if isinstance(first.ask, EdgeStep) else self.steps

        async def one(item: Item, reason: StepError | None) -> Result | Dead:
            async with gate:
                return await self._through(rest, item, reason)

        outcomes = await asyncio.gather(*(one(*pair) for pair in left), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            (made.results if isinstance(outcome, Result) else made.dead).append(outcome)  # type: ignore[arg-type]
        return made

    async def _at_the_edge(
        self, step: EdgeStep, items: list[Item], made: Batch
    ) -> list[tuple[Item, StepError | None]]:
        """Answers what the edge model can; returns the others with the reason why not."""
        left: list[tuple[Item, StepError | None]] = []
        cuts = [items[at : at + ROWS_A_CALL] for at in range(0, len(items), ROWS_A_CALL)]
        answered = await asyncio.gather(*(_patiently(step, [i.record for i in cut]) for cut in cuts))
        for cut, answers in zip(cuts, answered, strict=True):
            for item, answer in zip(cut, answers, strict=True):
                checked = self._checked(answer)
                if isinstance(checked, StepError):
                    left.append((item, checked))
                else:
                    made.results.append(Result(item, checked.output, checked.confidence, checked.model))
        return left

    def _checked(self, answer: StepAnswer | StepError) -> StepAnswer | StepError:
        if isinstance(answer, StepAnswer):
            try:
                self.feature.check_output(answer.output)
            except SchemaViolation as error:
                return error
        return answer

    async def _through(self, steps: list[FeatureStep], item: Item, reason: StepError | None) -> Result | Dead:
        """Walks the chain for one item."""
        outcomes = [reason.code] if reason else []
        detail = reason.detail if reason else ""
        cost: float | None = 0.0
        if steps:
            walked = await run_chain(
                [*drawn(steps), static_step({})],
                Question(item.record, item.entity_key),
                Deadline.after_ms(1000 * ITEM_S * len(steps)),
                self.breakers,
                self.feature.check_output,
            )
            tried = [attempt for attempt in walked.attempts if attempt.served_by.pattern != "static"]
            cost = self._cost(tried)
            if walked.served_by.pattern != "static":
                answer = walked.answer
                return Result(item, answer.output, answer.confidence, answer.model, cost)
            outcomes += [attempt.outcome for attempt in tried]
            detail = next((a.detail for a in reversed(tried) if a.detail), detail)
        if self.away_codes.intersection(outcomes):
            # Whoever might have answered was not there.
            raise ConnectionFailed(f"{item.entity_key}: {', '.join(outcomes)}")
        return Dead(
            *(item.entity_key, item.input_hash, outcomes[-1], detail),
            abstained=ABSTAINED.issuperset(outcomes),
            cost_usd=cost,
        )

    def _cost(self, attempts: list[Attempt]) -> float | None:
        for attempt in attempts:
            price(self.feature.name, attempt, self.tariff)
        costs = [attempt.cost_usd for attempt in attempts]
        return None if None in costs else sum(cost for cost in costs if cost)


async def _patiently(step: EdgeStep, inputs: list[dict[str, object]]) -> list[StepAnswer | StepError]:
    """Asks, and while the edge model says that it has too much to do, as long as it asks to wait."""
    waited = 0.0
    while True:
        try:
            return await step.ask_many(inputs, CALL_S)
        except Overloaded as error:
            pause = max(error.retry_after_s or 0.0, 0.1 + waited / 2)
            if waited + pause > PATIENCE_S:
                raise
            waited += pause
            await asyncio.sleep(pause)
