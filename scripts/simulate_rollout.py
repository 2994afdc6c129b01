"""How often the guard is wrong, and how soon it is right: `python scripts/simulate_rollout.py`.

Whole rollouts (limited, expand-25, expand-50) of made-up traffic are judged look by look by the guard's own
code. Prints the tables of docs/rollout.md and draws its plot. Some minutes on two cores.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf, sqrt
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rollout_traffic import Traffic, stage

from trivium.domain.estimate import ClusterSums, share
from trivium.domain.inference import Arm
from trivium.domain.scorecard import ArmOutcomes
from trivium.rollouts.arms import Finding, Rules, compare

STAGES = (("limited", 0.10), ("expand-25", 0.25), ("expand-50", 0.50))
MARGINS = {"errors": 0.02, "slow": 0.01, "overrides": 0.0}
PLOT = Path(__file__).parents[1] / "docs" / "rollout.svg"

QUIET = {
    "as described below": Traffic(),
    "heavy-tailed requests (Pareto, 1.3)": Traffic(tail=1.3),
    "tiny rates (0.05 % errors and slow, 0.5 % overrides)": Traffic(
        errors=(0.0005, 0.0005), slow=(0.0005, 0.0005), overrides=(0.005, 0.005)
    ),
    "worse by exactly the margins": Traffic(errors=(0.01, 0.03), slow=(0.005, 0.015)),
    "a subject's requests nearly alike (0.8), overrides 80 %": Traffic(icc=0.8, overrides=(0.8, 0.8)),
    "overrides 95 %, a minimum exposure of 10": Traffic(icc=0.5, overrides=(0.95, 0.95)),
}
MINIMUM = {"overrides 95 %, a minimum exposure of 10": 10}
BROKEN = {
    "errors 1 % → 5 %": Traffic(errors=(0.01, 0.05)),
    "errors 0 % → 5 % (control cannot fail)": Traffic(errors=(0.0, 0.05)),
    "errors 0 % → 30 %": Traffic(errors=(0.0, 0.30)),
    "overrides 20 % → 35 %": Traffic(overrides=(0.20, 0.35)),
    "overrides 20 % → 25 %": Traffic(overrides=(0.20, 0.25)),
    "slow 0.5 % → 3 %": Traffic(slow=(0.005, 0.03)),
    "errors 1 % → 5 %, heavy-tailed requests": Traffic(errors=(0.01, 0.05), tail=1.3),
}
SKEWED = {"50/50, as planned": Traffic(), "45/55": Traffic(skew=0.9), "48/52": Traffic(skew=0.96)}


@dataclass
class Outcome:
    """What became of one rollout; subjects and requests are counted until the roll-back."""

    rolled_back_in: int | None = None
    look: float = inf
    treated: float = inf
    everyone: float = inf
    requests: float = inf
    proven: list[str] = field(default_factory=list)
    held: bool = False
    held_after: float = inf
    naive_look: float = inf


@dataclass(frozen=True)
class Task:
    """One rollout to simulate."""

    traffic: Traffic
    min_subjects: int
    seed: int
    stages: tuple[float, ...] = tuple(percent for _, percent in STAGES)


def roll_out(task: Task) -> Outcome:
    """Walks a rollout until it is rolled back, or through."""
    random = np.random.default_rng(task.seed)
    outcome = Outcome()
    treated = everyone = requests = 0
    for number, planned in enumerate(task.stages):
        rules = Rules(MARGINS, task.min_subjects, planned)
        for at, arms in enumerate(stage(task.traffic, planned, random)):
            look = number + (at + 1) / task.traffic.looks
            finding = compare(rules, arms)
            now = sum(one.subjects for one in arms.values())
            if outcome.naive_look == inf and _naive(arms, finding):
                outcome.naive_look = look
            if finding.ratio and finding.ratio.mismatch and not outcome.held:
                outcome.held, outcome.held_after = True, everyone + now
            if finding.outcome == "regression":
                of = arms[Arm.TREATMENT]
                outcome.rolled_back_in, outcome.look, outcome.proven = number, look, finding.proven
                outcome.treated, outcome.everyone = treated + of.subjects, everyone + now
                outcome.requests = requests + of.requests
                return outcome
        treated += arms[Arm.TREATMENT].subjects
        requests += arms[Arm.TREATMENT].requests
        everyone += now
    return outcome


def _naive(arms: dict[Arm, ArmOutcomes], finding: Finding) -> bool:
    """What one would do without any of this: three 95 % bounds over independent requests, at every look."""
    for metric, bound in finding.bounds.items():
        variance = sum(_plain_variance(getattr(one, metric)) for one in arms.values())
        if bound.difference - 1.645 * sqrt(variance) > bound.margin:
            return True
    return False


def _plain_variance(sums: ClusterSums) -> float:
    return sums.ratio * (1 - sums.ratio) / sums.n if sums.n else inf


def _percent(count: int, n: int) -> str:
    found = share(count, n)
    assert found
    return f"{found.value:.2%} ({found.low:.2%} to {found.high:.2%})"


def _quantiles(values: list[float]) -> str:
    def at(q: float) -> str:
        found = float(np.quantile(values, q, method="inverted_cdf"))
        return "never" if found == inf else f"{found:,.0f}"

    return f"{at(0.5)} / {at(0.95)}"


Run = Callable[[dict[str, Traffic], int, tuple[float, ...]], Iterator[tuple[str, list[Outcome]]]]


def quiet_table(run: Run, rollouts: int) -> tuple[Table, list[Outcome]]:
    """False alarms where treatment is as good as control, or worse by what is borne."""
    table = Table("A/A", "rolled back in a rollout", "by metric", "by 95 % bounds", "held for its ratio")
    shown: list[Outcome] = []
    for name, outcomes in run(QUIET, rollouts, Task.stages):
        shown = shown or outcomes
        by_metric = {m: sum(m in one.proven for one in outcomes) for m in MARGINS}
        told = ", ".join(f"{metric} {count}" for metric, count in by_metric.items() if count) or "none"
        alarms = sum(one.rolled_back_in is not None for one in outcomes)
        held = _percent(sum(one.held for one in outcomes), rollouts)
        naive = sum(one.naive_look < inf for one in outcomes) / rollouts
        table.add_row(name, _percent(alarms, rollouts), told, f"{naive:.0%}", held)
    return table, shown


def broken_table(run: Run, rollouts: int) -> tuple[Table, dict[str, list[Outcome]]]:
    """How soon what is worse is rolled back."""
    table = Table(
        *("regression", "in limited", "by the end", "treatment's subjects P50 / P95"),
        *("its requests P50 / P95", "all subjects P50 / P95"),
    )
    shown = {}
    for name, outcomes in run(BROKEN, rollouts, Task.stages):
        shown[name] = outcomes
        in_limited = sum(one.rolled_back_in == 0 for one in outcomes) / rollouts
        ever = sum(one.rolled_back_in is not None for one in outcomes) / rollouts
        counts = [[getattr(one, of) for one in outcomes] for of in ("treated", "requests", "everyone")]
        table.add_row(name, f"{in_limited:.0%}", f"{ever:.0%}", *(_quantiles(one) for one in counts))
    return table, shown


def ratio_table(run: Run, rollouts: int) -> Table:
    """Sample ratios in expand-50 alone."""
    table = Table("subjects' shares in expand-50", "held", "subjects until then P50 / P95")
    for name, outcomes in run(SKEWED, rollouts, (0.5,)):
        held = _percent(sum(one.held for one in outcomes), rollouts)
        table.add_row(name, held, _quantiles([one.held_after for one in outcomes]))
    return table


def draw(quiet: list[Outcome], broken: dict[str, list[Outcome]], path: Path) -> None:
    """Alarms over an A/A rollout, and the share of regressions rolled back over the rollout."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    x = np.linspace(0, 3, 301)
    for outcomes, label, of, colour in (
        (quiet, "guard", "look", "#1c7ed6"),
        (quiet, "95 % bounds at every look", "naive_look", "#c92a2a"),
    ):
        looks = np.asarray([getattr(one, of) for one in outcomes])
        left.plot(x, [(looks <= at).mean() for at in x], label=label, color=colour)
    left.axhline(0.05, color="#868e96", linestyle=":", label="5 %, the alpha that is spent")
    left.set_title(f"No regression: {len(quiet):,} rollouts, share rolled back")
    for name, outcomes in broken.items():
        looks = np.asarray([one.look for one in outcomes])
        right.plot(x, [(looks <= at).mean() for at in x], label=name, linewidth=1.3)
    right.set_title("Regressions: share rolled back")
    for axes in (left, right):
        axes.set_xticks([0, 1, 2, 3], ["limited", "expand-25", "expand-50", "ga"])
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.2)
    left.legend(fontsize=7, frameon=False)
    right.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with rc_context({"svg.hashsalt": "trivium"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Simulates, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2_500, help="A/A rollouts of each kind")
    parser.add_argument("--broken", type=int, default=600, help="rollouts of each regression and ratio")
    parser.add_argument("--plot", type=Path, default=PLOT)
    given = parser.parse_args()
    scenarios = (len(QUIET) * given.rollouts, (len(BROKEN) + len(SKEWED)) * given.broken)
    with Pool(os.cpu_count()) as pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("rollouts", total=sum(scenarios))

        def run(
            of: dict[str, Traffic], rollouts: int, stages: tuple[float, ...]
        ) -> Iterator[tuple[str, list[Outcome]]]:
            for place, (name, traffic) in enumerate(of.items()):
                least = MINIMUM.get(name, 200)
                tasks = [Task(traffic, least, 1_000_003 * place + n, stages) for n in range(rollouts)]
                outcomes = []
                for outcome in pool.imap_unordered(roll_out, tasks, chunksize=20):
                    outcomes.append(outcome)
                    progress.advance(bar)
                yield name, outcomes

        false_alarms, quiet = quiet_table(run, given.rollouts)
        detection, broken = broken_table(run, given.broken)
        ratios = ratio_table(run, given.broken)
    for table in (false_alarms, detection, ratios):
        Console(width=160).print(table)
    draw(quiet, broken, given.plot)


if __name__ == "__main__":
    main()
