"""An evaluation from its beginning to its record, and its comparison with another."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trivium.domain.evaluation import Difference, GateResult, check_gates
from trivium.errors import NotFound
from trivium.evals.cases import Golden, load_cases
from trivium.evals.comparison import Flip, Scored, differences, flips, scored
from trivium.evals.evaluators import evaluators_sha256, make_evaluators
from trivium.evals.pipeline import Pipeline
from trivium.evals.runner import CaseRun, run_cases
from trivium.evals.summary import Summary, summarise
from trivium.features import Feature
from trivium.patterns.steps import Backends
from trivium.store.evaluations import EvaluationRepository
from trivium.telemetry import new_id


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation: what was run, what came of it, and whether it passed.

    `whole` is false where only some of the cases were run: such an evaluation proves nothing, and is not
    stored.
    """

    id: str
    feature: Feature
    variant: str
    version: str
    golden: Golden
    evaluators_sha256: str
    runs: list[CaseRun]
    summary: Summary
    gates: list[GateResult]
    whole: bool
    created_at: float

    @property
    def passed(self) -> bool:
        """Whether every gate is met, on all cases."""
        return self.whole and all(gate.passed for gate in self.gates)

    @property
    def scored(self) -> dict[str, Scored]:
        """The cases as a comparison takes them."""
        return scored(self.case_rows())

    def case_rows(self) -> list[dict[str, Any]]:
        """The rows of the table `evaluation_case`."""
        return [
            {
                "evaluation_id": self.id,
                "case_id": run.case_id,
                "repeat": run.repeat,
                "output": run.answered.output if run.answered else None,
                "scores": run.scores,
                "failure": run.failure,
                "confidence": run.answered.confidence if run.answered else None,
                "latency_ms": run.latency_ms,
                "cost_usd": run.cost_usd,
            }
            for run in self.runs
        ]

    def row(self) -> dict[str, Any]:
        """The row of the table `evaluation`."""
        made = self.summary
        return {
            "id": self.id,
            "feature": self.feature.name,
            "variant": self.variant,
            "version": self.version,
            "pattern": self.feature.variants[self.variant].spec.pattern,
            "dataset": self.feature.manifest.evaluation.dataset,
            "dataset_sha256": self.golden.sha256,
            "evaluators_sha256": self.evaluators_sha256,
            "cases": made.cases,
            "repeats": made.repeats,
            "failures": made.failures,
            "metrics": {name: asdict(found) for name, found in made.metrics.items()},
            "gates": [asdict(gate) for gate in self.gates],
            "passed": self.passed,
            "cost_usd": made.cost_usd,
            "p50_ms": made.p50_ms.value if made.p50_ms else None,
            "p99_ms": made.p99_ms.value if made.p99_ms else None,
            "created_at": self.created_at,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """An evaluation beside an earlier one, on the cases that both have; `unlike` says what is not alike."""

    baseline: Mapping[str, Any]
    differences: list[Difference]
    flips: list[Flip]
    unlike: list[str]

    @property
    def regressions(self) -> list[Difference]:
        """The metrics that got significantly worse."""
        return [one for one in self.differences if one.regression]


async def evaluate(
    feature: Feature,
    variant: str,
    backends: Backends,
    *,
    repeat: int = 1,
    at_once: int = 4,
    limit: int | None = None,
    progress: bool = False,
) -> Evaluated:
    """Runs a feature's dataset through one of its variants, scores it, and holds it against the gates.

    Raises:
        NotFound: there is no such variant. ConfigurationError: an evaluator, a gate or whoever should
            answer is not as it must be. DatasetError: the dataset is not.
    """
    pipeline = Pipeline(feature, variant, backends)
    scorers = make_evaluators(feature, backends)
    golden = load_cases(feature)
    chosen = golden if limit is None else replace(golden, cases=golden.cases[:limit])
    runs = await run_cases(pipeline, chosen, scorers, repeat=repeat, at_once=at_once, progress=progress)
    summary = summarise(runs, scorers, repeat)
    return Evaluated(
        id=new_id(),
        feature=feature,
        variant=variant,
        version=feature.variants[variant].version,
        golden=golden,
        evaluators_sha256=evaluators_sha256(feature, scorers),
        runs=runs,
        summary=summary,
        gates=check_gates(summary.metrics, feature.manifest.evaluation.gates),
        whole=len(chosen.cases) == len(golden.cases),
        created_at=time.time(),
    )


async def baseline_of(
    feature: Feature, variant: str, evaluations: EvaluationRepository, against: str
) -> dict[str, Any]:
    """The stored evaluation to compare with; raises NotFound if there is none of that name."""
    version, served = feature.variants[variant].version, feature.manifest.serve
    row = await evaluations.baseline(feature.name, against, variant, version)
    if row is None and against == "last" and served != variant:
        row = await evaluations.latest(feature.name, variant=served, version=feature.variants[served].version)
    if row is None:
        raise NotFound(
            f"{feature.name}: there is no evaluation {against!r} to compare with; name an id, a version or a "
            f"variant of one that was stored, or `last` for {variant} as it was, or else what is served"
        )
    return row


async def compare(
    made: Evaluated, evaluations: EvaluationRepository, baseline: Mapping[str, Any]
) -> Comparison:
    """Compares an evaluation with a stored one."""
    return between(baseline, scored(await evaluations.cases(baseline["id"])), made)


def between(row: Mapping[str, Any], before: Mapping[str, Scored], made: Evaluated) -> Comparison:
    """The comparison of a stored evaluation's cases with an evaluation."""
    gates = made.feature.manifest.evaluation.gates
    after = made.scored
    kinds = made.summary.kinds
    found = flips(before, after, kinds, made.runs)
    return Comparison(row, differences(before, after, kinds, gates), found, _unlike(row, before, made))


def _unlike(row: Mapping[str, Any], before: Mapping[str, Scored], made: Evaluated) -> list[str]:
    """What else than the variant could make a difference."""
    found = []
    if row["dataset_sha256"] != made.golden.sha256:
        found.append(
            "it was made on another version of the dataset: cases of one id may ask or expect otherwise"
        )
    if row["evaluators_sha256"] != made.evaluators_sha256:
        found.append("it was scored by other evaluators or gates")
    after = {run.case_id for run in made.runs}
    if lacking := len(after - before.keys()):
        found.append(f"{lacking} of {len(after)} cases are not in it, and are not compared")
    return found
