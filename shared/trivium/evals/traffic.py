"""Two variants on what users have really asked: where they agree, and what each would have cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivium.domain.estimate import Estimate, quantile, share
from trivium.evals.cases import Answered, Asked
from trivium.evals.pipeline import NotAnswered, Pipeline
from trivium.features import Feature
from trivium.patterns.steps import Backends
from trivium.store.questions import RecordedQuestion


@dataclass(frozen=True, slots=True)
class Side:
    """One variant on traffic; `as_corrected` is the share that it answers as users have corrected it.

    The latency is that of the answers, the cost that of failures, too.
    """

    variant: str
    failures: int
    as_corrected: Estimate | None
    p50_ms: Estimate | None
    p99_ms: Estimate | None
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Both, and where they differ: input, output, other output. `agreed` is of those that both answered."""

    questions: int
    agreed: Estimate | None
    sides: list[Side]
    disagreements: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]


async def on_traffic(
    feature: Feature,
    variants: Sequence[str],
    backends: Backends,
    questions: Sequence[RecordedQuestion],
    at_once: int,
) -> Traffic:
    """Asks two variants what was recorded; nothing of it is recorded again."""
    answers = [
        await _answers(Pipeline(feature, variant, backends), questions, at_once) for variant in variants
    ]
    both = [
        (q, a, b)
        for q, a, b in zip(questions, *answers, strict=True)
        if isinstance(a, Answered) and isinstance(b, Answered)
    ]
    differing = [(q.input, a.output, b.output) for q, a, b in both if a.output != b.output]
    return Traffic(
        len(questions),
        share(len(both) - len(differing), len(both)),
        [_side(variant, questions, found) for variant, found in zip(variants, answers, strict=True)],
        differing,
    )


async def _answers(
    pipeline: Pipeline, questions: Sequence[RecordedQuestion], at_once: int
) -> list[Answered | NotAnswered]:
    if questions:
        await pipeline.probe()
    gate = asyncio.Semaphore(at_once)

    async def one(question: RecordedQuestion) -> Answered | NotAnswered:
        async with gate:
            try:
                return await pipeline.answer(Asked(question.input, question.entity_key))
            except NotAnswered as error:
                return error

    return list(await asyncio.gather(*(one(question) for question in questions)))


def _side(
    variant: str, questions: Sequence[RecordedQuestion], answers: Sequence[Answered | NotAnswered]
) -> Side:
    given = [answer for answer in answers if isinstance(answer, Answered)]
    corrected = [(q.corrected, a) for q, a in zip(questions, answers, strict=True) if q.corrected]
    right = sum(isinstance(a, Answered) and a.output == wanted for wanted, a in corrected)
    latencies = sorted(answer.latency_ms for answer in given)
    costs = [answer.cost_usd for answer in answers]
    return Side(
        variant,
        len(answers) - len(given),
        share(right, len(corrected)),
        quantile(latencies, 0.5),
        quantile(latencies, 0.99),
        None if None in costs else sum(cost for cost in costs if cost),
    )
