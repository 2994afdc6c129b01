"""Runs a dataset through a variant, some cases at once, again as often as is asked for."""

from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic_evals import Case as EvalsCase
from pydantic_evals import Dataset
from pydantic_evals.evaluators import Evaluator
from pydantic_evals.lifecycle import CaseLifecycle
from pydantic_evals.reporting import EvaluationReport, ReportCase, ReportCaseFailure

from trivium.evals.cases import Answered, Asked, Case, Golden, Slice
from trivium.evals.pipeline import NotAnswered, Pipeline

Expected = dict[str, Any]
Scorer = Evaluator[Asked, Answered, Expected]
Score = bool | float
_LOST: ContextVar[NotAnswered | None] = ContextVar("lost", default=None)


@dataclass(frozen=True, slots=True)
class CaseRun:
    """One run of one case: what came of it, how it was scored, and what it took; a failure has no scores.

    `cost_usd` is None where a price is not known; what was tried in vain costs, too.
    """

    case_id: str
    repeat: int
    input: dict[str, Any]
    expected: Expected
    slices: dict[str, Slice]
    answered: Answered | None
    scores: dict[str, Score]
    failure: str | None
    latency_ms: float = 0.0
    cost_usd: float | None = 0.0


class _Losses(CaseLifecycle[Asked, Any, Any]):
    """Keeps with a failed run's name what its failure took; the report has only the words of it."""

    def __init__(self, case: EvalsCase[Asked, Any, Any], kept: dict[str, NotAnswered]) -> None:
        super().__init__(case)
        self._kept = kept

    async def teardown(
        self, result: ReportCase[Asked, Any, Any] | ReportCaseFailure[Asked, Any, Any] | None
    ) -> None:
        """Runs in the same task as the question, and so sees its variables."""
        if (lost := _LOST.get()) and isinstance(result, ReportCaseFailure):
            self._kept[result.name] = lost


async def run_cases(
    pipeline: Pipeline,
    golden: Golden,
    scorers: Sequence[Scorer],
    *,
    repeat: int = 1,
    at_once: int = 4,
    progress: bool = False,
) -> list[CaseRun]:
    """Runs every case `repeat` times and scores what was answered, in the order of the dataset.

    Raises:
        ConfigurationError: whoever should answer cannot be reached.
    """
    await pipeline.probe()
    dataset: Dataset[Asked, Any, Any] = Dataset(
        name=pipeline.feature.name,
        cases=[
            EvalsCase(name=case.id, inputs=case.asked, expected_output=case.expected, metadata=case.slices)
            for case in golden.cases
        ],
        evaluators=list(scorers),
    )
    lost: dict[str, NotAnswered] = {}

    async def answer(asked: Asked) -> Answered:
        try:
            return await pipeline.answer(asked)
        except NotAnswered as error:
            _LOST.set(error)
            raise

    report = await dataset.evaluate(
        answer,
        name=f"{pipeline.feature.name} {pipeline.variant}",
        max_concurrency=at_once,
        progress=progress,
        repeat=repeat,
        lifecycle=lambda case: _Losses(case, lost),
    )
    return _runs(report, golden.cases, lost)


def _runs(
    report: EvaluationReport[Any, Any, Any], cases: Sequence[Case], lost: dict[str, NotAnswered]
) -> list[CaseRun]:
    by_id = {case.id: case for case in cases}
    place = {case.id: number for number, case in enumerate(cases)}
    seen: Counter[str] = Counter()
    runs = []
    reported: list[ReportCase[Any, Any, Any] | ReportCaseFailure[Any, Any, Any]] = [*report.cases]
    for found in (*reported, *report.failures):
        case = by_id[found.source_case_name or found.name]
        runs.append(_run(case, seen[case.id], found, lost.get(found.name)))
        seen[case.id] += 1
    return sorted(runs, key=lambda run: (place[run.case_id], run.repeat))


def _run(
    case: Case,
    repeat: int,
    found: ReportCase[Any, Any, Any] | ReportCaseFailure[Any, Any, Any],
    lost: NotAnswered | None,
) -> CaseRun:
    about = (case.id, repeat, case.input, case.expected, case.slices)
    if isinstance(found, ReportCaseFailure):
        took = (lost.latency_ms, lost.cost_usd) if lost else (0.0, None)
        return CaseRun(*about, None, {}, str(lost) if lost else found.error_message, *took)
    took = (found.output.latency_ms, found.output.cost_usd)
    if found.evaluator_failures:
        told = "; ".join(f"evaluator {one.name}: {one.error_message}" for one in found.evaluator_failures)
        return CaseRun(*about, found.output, {}, told, *took)
    scores: dict[str, Score] = {name: bool(one.value) for name, one in found.assertions.items()}
    scores |= {name: float(one.value) for name, one in found.scores.items()}
    return CaseRun(*about, found.output, scores, None, *took)
