"""Runs a dataset through a variant, some cases at once, again as often as is asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_evals import Case as EvalsCase
from pydantic_evals import Dataset
from pydantic_evals.evaluators import Evaluator
from pydantic_evals.reporting import EvaluationReport, ReportCase, ReportCaseFailure

from trivium.evals.cases import Answered, Asked, Case, Golden, Slice
from trivium.evals.pipeline import Pipeline

Expected = dict[str, Any]
Scorer = Evaluator[Asked, Answered, Expected]
Score = bool | float


@dataclass(frozen=True, slots=True)
class CaseRun:
    """One run of one case: what came of it, and how it was scored; a failure has no scores."""

    case_id: str
    repeat: int
    input: dict[str, Any]
    expected: Expected
    slices: dict[str, Slice]
    answered: Answered | None
    scores: dict[str, Score]
    failure: str | None


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
    await pipeline.probe(golden.cases[0].asked)
    dataset: Dataset[Asked, Any, Any] = Dataset(
        name=pipeline.feature.name,
        cases=[
            EvalsCase(name=case.id, inputs=case.asked, expected_output=case.expected, metadata=case.slices)
            for case in golden.cases
        ],
        evaluators=list(scorers),
    )
    report = await dataset.evaluate(
        pipeline.answer,
        name=f"{pipeline.feature.name} {pipeline.variant}",
        max_concurrency=at_once,
        progress=progress,
        repeat=repeat,
    )
    return _runs(report, golden.cases)


def _runs(report: EvaluationReport[Any, Any, Any], cases: Sequence[Case]) -> list[CaseRun]:
    by_id = {case.id: case for case in cases}
    place = {case.id: number for number, case in enumerate(cases)}
    seen: Counter[str] = Counter()
    runs = []
    reported: list[ReportCase[Any, Any, Any] | ReportCaseFailure[Any, Any, Any]] = [*report.cases]
    for found in (*reported, *report.failures):
        case = by_id[found.source_case_name or found.name]
        runs.append(_run(case, seen[case.id], found))
        seen[case.id] += 1
    return sorted(runs, key=lambda run: (place[run.case_id], run.repeat))


def _run(
    case: Case, repeat: int, found: ReportCase[Any, Any, Any] | ReportCaseFailure[Any, Any, Any]
) -> CaseRun:
    about = (case.id, repeat, case.input, case.expected, case.slices)
    if isinstance(found, ReportCaseFailure):
        return CaseRun(*about, None, {}, found.error_message.removeprefix("NotAnswered: "))
    if found.evaluator_failures:
        told = "; ".join(f"evaluator {one.name}: {one.error_message}" for one in found.evaluator_failures)
        return CaseRun(*about, found.output, {}, told)
    scores: dict[str, Score] = {name: bool(one.value) for name, one in found.assertions.items()}
    scores |= {name: float(one.value) for name, one in found.scores.items()}
    return CaseRun(*about, found.output, scores, None)
