"""An evaluation for machines and for people: JSON, JUnit, and a page that needs nothing else."""

import json
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader

from trivium.domain.estimate import Estimate
from trivium.evals.comparison import Scored
from trivium.evals.evaluate import Comparison, Evaluated
from trivium.evals.runner import CaseRun

MOST_FLIPS = 100
MOST_LOW = 20


def as_json(made: Evaluated, comparison: Comparison | None) -> str:
    """Everything, as one object."""
    return json.dumps(_object(made, comparison), indent=2, ensure_ascii=False)


def as_junit(made: Evaluated, comparison: Comparison | None) -> str:
    """A test a gate, one for regressions, and one a case; a failed one says why."""
    suite = ElementTree.Element("testsuite", name=f"{made.feature.name} {made.variant} {made.version}")
    for gate in made.gates:
        found = _case(suite, "gate", gate.metric, 0.0)
        if not gate.passed:
            told = f"{gate.estimate.value:.4f} is outside min {gate.min} max {gate.max}"
            ElementTree.SubElement(found, "failure", message=told)
    for one in comparison.differences if comparison else ():
        found = _case(suite, "regression", one.metric, 0.0)
        if one.regression:
            ElementTree.SubElement(
                found, "failure", message=f"{one.value:+.4f}, p {one.adjusted_p:.4f} ({one.test})"
            )
    for run in made.runs:
        seconds = run.answered.latency_ms / 1000 if run.answered else 0.0
        found = _case(suite, "case", f"{run.case_id} [{run.repeat + 1}]", seconds)
        # A case that is wrong or not answered is no failed test: what has to be reached is the gate.
        if run.failure:
            ElementTree.SubElement(found, "skipped", message=f"not answered: {run.failure}")
        elif any(score is False for score in run.scores.values()):
            ElementTree.SubElement(found, "system-out").text = json.dumps(run.scores)
    failed = len(suite.findall("testcase/failure"))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(failed))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_html(made: Evaluated, comparison: Comparison | None) -> str:
    """A page; what models and users wrote is escaped."""
    environment = Environment(loader=PackageLoader("trivium.evals", "."), autoescape=True)
    environment.filters["figure"] = figure
    environment.filters["estimate"] = estimate
    environment.filters["readable"] = readable
    environment.globals.update(words=words, said=said)
    wrong = [run for run in made.runs if run.failure or any(s is False for s in run.scores.values())]
    measured = [run for run in made.runs if run not in wrong and _lowest(run) < 1]
    wrong += sorted(measured, key=_lowest)[:MOST_LOW]
    template = environment.get_template("report.html.j2")
    flips = comparison.flips[:MOST_FLIPS] if comparison else []
    return template.render(made=made, summary=made.summary, comparison=comparison, flips=flips, wrong=wrong)


def words(was: str, now: str) -> list[tuple[str, str]]:
    """What became of a text, in runs of words: ("same" | "gone" | "new", words)."""
    before, after = was.split(), now.split()
    found = []
    for kind, i, j, k, m in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(("same", " ".join(before[i:j])))
            continue
        found += [
            (name, " ".join(some)) for name, some in (("gone", before[i:j]), ("new", after[k:m])) if some
        ]
    return found


def said(one: Scored) -> str:
    """An output as text, or why there is none."""
    return one.failure or readable(one.output)


def readable(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def estimate(found: Estimate | None) -> str:
    """A figure with its interval."""
    return "-" if found is None else f"{figure(found.value)} ({figure(found.low)} to {figure(found.high)})"


def figure(value: float | None) -> str:
    """A number in as many digits as it is worth."""
    return "-" if value is None else f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _lowest(run: CaseRun) -> float:
    """The lowest of its scores that are numbers."""
    return min((score for score in run.scores.values() if not isinstance(score, bool)), default=1.0)


def _case(suite: ElementTree.Element, kind: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=f"{suite.get('name')}.{kind}", name=name, time=f"{seconds:.3f}"
    )


def _object(made: Evaluated, comparison: Comparison | None) -> dict[str, Any]:
    summary = made.summary
    return {
        **made.row(),
        "whole": made.whole,
        "passes_all": {name: asdict(found) for name, found in summary.passes_all.items()},
        "unstable": summary.unstable,
        "slices": [asdict(one) for one in summary.slices],
        "p50_ms": asdict(summary.p50_ms) if summary.p50_ms else None,
        "p99_ms": asdict(summary.p99_ms) if summary.p99_ms else None,
        "comparison": None
        if comparison is None
        else {
            "baseline": dict(comparison.baseline),
            "differences": [
                {**asdict(one), "significant": one.significant, "regression": one.regression}
                for one in comparison.differences
            ],
            "flips": [asdict(one) for one in comparison.flips],
            "unlike": comparison.unlike,
        },
        "runs": [asdict(run) for run in made.runs],
    }
