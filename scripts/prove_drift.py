"""How often drift is found where there is none, and how soon where there is: `python scripts/prove_drift.py`.

banking77's messages and clinc150's out-of-scope ones go through the real edge model once, as ticket-triage
serves it; the answers are kept in --cache. References and windows are drawn from them and judged by the code
that the worker runs. Prints the tables of docs/how-to/watch-drift.md. Some twenty minutes on two cores.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import aiohttp
import numpy as np
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.edge import KEY, REAL_DATA, running_edge  # noqa: E402
from trivium.datasets import read_records  # noqa: E402
from trivium.domain.drift import Observation  # noqa: E402
from trivium.domain.estimate import share  # noqa: E402
from trivium.domain.inference import StepAnswer  # noqa: E402
from trivium.domain.variants import EdgeVariant  # noqa: E402
from trivium.drift.columns import Matrix, Profile  # noqa: E402
from trivium.drift.judge import Judge  # noqa: E402
from trivium.drift.profiles import profile_of  # noqa: E402
from trivium.edge import EdgeClient  # noqa: E402
from trivium.errors import StepError  # noqa: E402
from trivium.features import Feature, find_feature  # noqa: E402
from trivium.patterns.edge import EdgeStep  # noqa: E402

AT_ONCE = 64
SIZES = (50, 100, 200, 500)
QUIET = (100, 200, 500)
SHIFTED, NEW = 10, 8
"""Intents that become three times as frequent; intents that the reference has none of."""
Random = np.random.Generator


@dataclass(frozen=True)
class Answered:
    """Messages and what ticket-triage answered to them; no output where it abstained, for the reason."""

    texts: list[str]
    intents: list[str]
    labels: list[str | None]
    confidences: list[float | None]
    reasons: list[str | None]
    vectors: Matrix

    def observation(self, row: int, number: int) -> Observation:
        """One message as an inference of a subject of its own."""
        label = self.labels[row]
        return Observation(
            id=f"{number}",
            at=float(number),
            subject_id=f"{number}",
            input={"text": self.texts[row]},
            output=None if label is None else {"label": label},
            confidence=self.confidences[row],
            fell_back=label is None,
            reason=self.reasons[row],
        )


Picked = list[tuple[str, int]]
"""Rows: whose, and which."""


def triage() -> Feature:
    """The shipped feature."""
    return find_feature(ROOT / "features", "ticket-triage")


def misspelt(text: str, share: float, chance: random.Random) -> str:
    """A text in which a share of the words of three letters or more has one slip of the fingers."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) < 3 or chance.random() >= share:
            continue
        at = chance.randrange(len(word) - 1)
        before, here, after = word[:at], word[at], word[at + 1 :]
        slips = (before + after[0] + here + after[1:], before + after, before + here + here + after)
        words[place] = chance.choice((*slips, before + chance.choice("abcdefghijklmnopqrstuvwxyz") + after))
    return " ".join(words)


def messages() -> dict[str, tuple[list[str], list[str]]]:
    """Texts and intents of each set."""
    rows = list(read_records(REAL_DATA / "banking77" / "train.csv"))
    texts, intents = [str(row["text"]) for row in rows], [str(row["category"]) for row in rows]
    parts = json.loads((REAL_DATA / "clinc150" / "out_of_scope.json").read_text("utf-8"))
    others = [text for part in parts.values() for text, _ in part]
    chance = random.Random(1)
    return {
        "banking": (texts, intents),
        "out of scope": (others, ["oos"] * len(others)),
        "typos 15 %": ([misspelt(text, 0.15, chance) for text in texts], intents),
        "typos 5 %": ([misspelt(text, 0.05, chance) for text in texts], intents),
    }


async def ask(url: str, sets: dict[str, tuple[list[str], list[str]]]) -> dict[str, Answered]:
    """Every message through the served variant and its model's embedding."""
    feature = triage()
    spec = feature.variants[feature.manifest.serve].spec
    assert isinstance(spec, EdgeVariant)
    made = {}
    async with aiohttp.ClientSession() as session:
        client = EdgeClient(url, KEY, session)
        step = EdgeStep(spec, feature.manifest.output, client)
        errors = Console(stderr=True)
        for name, (texts, intents) in sets.items():
            answers: list[StepAnswer | StepError] = []
            for start in track(range(0, len(texts), AT_ONCE), name, console=errors, transient=True):
                answers += await step.ask_many([{"text": t} for t in texts[start : start + AT_ONCE]], 30)
            failed = [isinstance(one, StepError) for one in answers]
            made[name] = Answered(
                *(texts, intents),
                [None if isinstance(one, StepError) else one.output["label"] for one in answers],
                [None if isinstance(one, StepError) else one.confidence for one in answers],
                [one.code if isinstance(one, StepError) else None for one in answers],
                np.asarray(await client.embed(spec.model, texts), np.float32),
            )
            errors.print(f"{name}: {len(texts):,} messages, {sum(failed):,} abstained")
    return made


def answered(folder: Path) -> dict[str, Answered]:
    """The same from the cache, if it is of these messages and this version."""
    sets, feature = messages(), triage()
    version = feature.variants[feature.manifest.serve].version
    told = json.dumps([version, sets], sort_keys=True).encode()
    file = folder / f"drift-{hashlib.sha256(told).hexdigest()[:16]}.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as logs, running_edge(ROOT / "models", Path(logs) / "log") as edge:
            asked = asyncio.run(ask(f"http://127.0.0.1:{edge.port}", sets))
        kept: dict[str, Any] = {}
        for name, one in asked.items():
            kept[f"{name}/vectors"] = one.vectors
            kept[f"{name}/rest"] = json.dumps([one.labels, one.confidences, one.reasons])
        np.savez(file, **kept)
    stored = np.load(file)
    made = {}
    for name, (texts, intents) in sets.items():
        labels, confidences, reasons = json.loads(str(stored[f"{name}/rest"]))
        made[name] = Answered(texts, intents, labels, confidences, reasons, stored[f"{name}/vectors"])
    return made


@cache
def loaded(folder: Path) -> tuple[Feature, dict[str, Answered]]:
    """Once a process."""
    return triage(), answered(folder)


def profile(folder: Path, picked: Picked, like: Profile | None = None) -> Profile:
    """The columns of some messages."""
    feature, sets = loaded(folder)
    rows = [sets[whose].observation(row, number) for number, (whose, row) in enumerate(picked)]
    vectors = np.stack([sets[whose].vectors[row] for whose, row in picked])
    return profile_of(feature, rows, (list(range(len(rows))), vectors), "ticket-triage/2", like)


def draw(scenario: str, sets: dict[str, Answered], rest: list[int], size: int, chance: Random) -> Picked:
    """A window of messages that the reference has not."""
    intents = np.asarray(sets["banking"].intents)[rest]
    weights = np.ones(len(rest))
    if scenario.startswith("mix"):
        weights = np.where(np.isin(intents, sorted(set(intents))[:: 77 // SHIFTED][:SHIFTED]), 3.0, 1.0)
    rows = chance.choice(rest, size, replace=False, p=weights / weights.sum()).tolist()
    if scenario.startswith("typos"):
        return [(scenario, row) for row in rows]
    picked = [("banking", row) for row in rows]
    if scenario.startswith("out of scope"):
        others = round(size * float(scenario.split()[-2]) / 100)
        strange = chance.permutation(len(sets["out of scope"].texts)).tolist()
        picked[:others] = [("out of scope", row) for row in strange[:others]]
    return picked


SCENARIOS = {
    "out of scope 20 %": "20 % out of scope",
    "out of scope 5 %": "5 % out of scope",
    "mix": f"{SHIFTED} of 77 intents three times as frequent",
    "new": f"{NEW} intents that the reference has none of, a tenth of the messages",
    "typos 15 %": "a typo in 15 % of the words",
    "typos 5 %": "a typo in 5 % of the words",
}


@dataclass(frozen=True)
class Task:
    """Some windows of a scenario beside one reference."""

    scenario: str
    size: int
    windows: int
    seed: int


def work(folder: Path, reference: int, rate: float, task: Task) -> tuple[Task, list[list[str]], list[bool]]:
    """For each window the columns that drifted, and whether the usual rule (PSI > 0.10) would have fired."""
    _, sets = loaded(folder)
    chance = np.random.default_rng(task.seed)
    order = chance.permutation(len(sets["banking"].texts))
    if task.scenario == "new":
        intents = np.asarray(sets["banking"].intents)
        fresh = np.isin(intents[order], sorted(set(intents))[:: 77 // NEW][:NEW])
        known = order[~fresh][:reference]
        rest = order[~np.isin(order, known)]
    else:
        known, rest = order[:reference], order[reference:]
    base = profile(folder, [("banking", int(row)) for row in known])
    judge = Judge(base, rate)
    found, naive = [], []
    left = rest.tolist()
    for _ in range(task.windows):
        picked = draw(task.scenario, sets, left, task.size, chance)
        if task.scenario == "same":
            gone = {row for _, row in picked}
            left = [row for row in left if row not in gone]
        window = profile(folder, picked, base)
        found.append([column.name for column in judge.of(window).columns if column.drifted])
        naive.append(psi(base, window) > 0.10)
    return task, found, naive


def psi(base: Profile, window: Profile) -> float:
    """The population stability index of the labels, as it is usually computed: no count is under a half."""
    was, now = base.columns["output.label"], window.columns["output.label"]
    names = sorted({*was.names, *now.names})  # type: ignore[union-attr]
    shares = []
    for column in (was, now):
        values = column.values  # type: ignore[union-attr]
        counts = np.asarray([max(0.5, sum(value == name for value in values)) for name in names])
        shares.append(counts / counts.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def tasks(quiet: int, shifted: int, a_reference: int) -> Iterator[Task]:
    """Everything to do; a new reference is drawn for every few windows."""
    for scenario, sizes, windows in (("same", QUIET, quiet), *((s, SIZES, shifted) for s in SCENARIOS)):
        for size in sizes:
            for number, start in enumerate(range(0, windows, a_reference)):
                yield Task(scenario, size, min(a_reference, windows - start), 1_000 * size + number)


def _percent(count: int, n: int) -> str:
    found = share(count, n)
    assert found
    return f"{found.value:.0%} ({found.low:.0%}-{found.high:.0%})"


def show(done: list[tuple[Task, list[list[str]], list[bool]]], reference: int) -> None:
    """Prints the tables, as Markdown."""
    console = Console(width=200)

    def of(scenario: str, size: int) -> tuple[list[list[str]], list[bool]]:
        mine = [
            (found, naive) for task, found, naive in done if (task.scenario, task.size) == (scenario, size)
        ]
        return [one for found, _ in mine for one in found], [one for _, naive in mine for one in naive]

    table = Table("window", "windows", "quiet", "alarms by column", "PSI of labels > 0.10 fired")
    for size in QUIET:
        found, naive = of("same", size)
        names = [name for one in found for name in one]
        told = ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names))) or "none"
        quiet = sum(not one for one in found)
        table.add_row(str(size), str(len(found)), f"{quiet} of {len(found)}", told, f"{np.mean(naive):.0%}")
    console.print(f"banking77 beside itself, a reference of {reference:,}", table)
    table = Table("drift", *(str(size) for size in SIZES), f"columns at {SIZES[-1]}")
    for scenario, told in SCENARIOS.items():
        cells = []
        for size in SIZES:
            found, _ = of(scenario, size)
            cells.append(_percent(sum(bool(one) for one in found), len(found)))
        names = [name for one in found for name in one]
        most = sorted(set(names), key=lambda name: -names.count(name))[:5]
        table.add_row(told, *cells, ", ".join(f"{n} {names.count(n) / len(found):.0%}" for n in most))
    console.print("share of windows in which drift was found, by the window's size", table)


def main() -> None:
    """Asks, draws, judges, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", type=int, default=300, help="unchanged windows of each size")
    parser.add_argument("--shifted", type=int, default=40, help="changed windows of each size and kind")
    parser.add_argument("--reference", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=triage().manifest.drift.false_discovery_rate)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "trivium-drift")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    answered(given.cache)
    todo = list(tasks(given.quiet, given.shifted, 10))
    done = []
    run = partial(work, given.cache, given.reference, given.rate)
    with (
        get_context("spawn").Pool(given.processes) as pool,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("windows", total=sum(task.windows for task in todo))
        for one in pool.imap_unordered(run, todo):
            done.append(one)
            progress.advance(bar, one[0].windows)
    show(done, given.reference)


if __name__ == "__main__":
    main()
