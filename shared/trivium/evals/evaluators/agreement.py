"""Whether a judge agrees with people, on answers that they have labelled."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trivium.domain.estimate import Estimate, Z, share
from trivium.errors import DatasetError, TriviumError
from trivium.evals.cases import Asked
from trivium.evals.evaluators.judge import Judge, Opinion

PASS = 0.5
"""A score of so much passes, a judge's and a person's."""


class Labelled(BaseModel):
    """An answer, and what a person said of it: pass or fail, or a score from 0 to 1."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    input: dict[str, Any] = {}
    output: dict[str, Any]
    expected: dict[str, Any] = {}
    label: Literal["pass", "fail"] | float = Field(union_mode="left_to_right")

    @property
    def passed(self) -> bool:
        """Whether the person was content with it."""
        return self.label == "pass" if isinstance(self.label, str) else self.label >= PASS


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a judge agrees with people on `n` answers; those that it `failed` to judge are not among them.

    `kappa` is None where chance alone would agree on all: one label is all that either gave. `consistency`
    is that of a pairwise judge. `disagreements` has the answers on which both differ.
    """

    n: int
    agreed: Estimate
    kappa: Estimate | None
    both_pass: int
    both_fail: int
    judge_only: int
    people_only: int
    consistency: Estimate | None
    failed: list[str]
    disagreements: list[tuple[Labelled, Opinion]]


async def agreement(
    judge: Judge,
    labelled: Sequence[Labelled],
    *,
    at_once: int = 2,
    told: Callable[[], None] = lambda: None,
) -> Agreement:
    """Has a judge look at answers that people have labelled.

    Args:
        judge: bound.
        labelled: what people said.
        at_once: answers that are judged at once.
        told: called after each.

    Raises:
        DatasetError: a pairwise judge has nothing to compare with. TriviumError: it judged none at all.
    """
    for number, one in enumerate(labelled, start=1):
        if judge.pairwise and not one.expected:
            raise DatasetError(
                f"label {number}: {judge.name} is pairwise, and there is no expected answer to compare with"
            )
    places = asyncio.Semaphore(at_once)

    async def look(one: Labelled) -> Opinion | TriviumError:
        async with places:
            try:
                return await judge.opinion(Asked(one.input), one.output, one.expected)
            except TriviumError as error:
                return error
            finally:
                told()

    opinions = await asyncio.gather(*map(look, labelled))
    judged = [(a, b) for a, b in zip(labelled, opinions, strict=True) if isinstance(b, Opinion)]
    failures = [error for error in opinions if isinstance(error, TriviumError)]
    if not judged and failures:
        raise failures[0]
    return _summed_up(judged, [error.detail for error in failures])


def _summed_up(judged: list[tuple[Labelled, Opinion]], failed: list[str]) -> Agreement:
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for one, opinion in judged:
        counts[opinion.score >= PASS, one.passed] += 1
    told = (counts[True, True], counts[False, False], counts[True, False], counts[False, True])
    agreed = share(told[0] + told[1], len(judged))
    assert agreed
    swapped = [opinion.consistent for _, opinion in judged if opinion.consistent is not None]
    return Agreement(
        len(judged),
        agreed,
        cohens_kappa(*told),
        *told,
        share(sum(swapped), len(swapped)),
        failed,
        [(one, opinion) for one, opinion in judged if (opinion.score >= PASS) != one.passed],
    )


def cohens_kappa(both_pass: int, both_fail: int, judge_only: int, people_only: int) -> Estimate | None:
    """Agreement beyond chance, 0 by chance and 1 at best, with its 95 % interval; None where chance is all.

    Cohen, A coefficient of agreement for nominal scales (1960). The interval is that of Fleiss, Cohen and
    Everitt (1969) with half an answer added to each count: without it, it covers 45 to 95 % of few answers
    and is nothing at full agreement; with it 94 to 99 % (20 to 300 answers, kappa 0 to 0.9).
    """
    counts = (both_pass, both_fail, judge_only, people_only)
    kappa, _ = _kappa(*counts)
    if kappa is None:
        return None
    middle, error = _kappa(*(count + 0.5 for count in counts))
    assert middle is not None
    low, high = middle - Z * error, middle + Z * error
    return Estimate(kappa, max(-1.0, min(kappa, low)), min(1.0, max(kappa, high)), sum(counts))


def _kappa(
    both_pass: float, both_fail: float, judge_only: float, people_only: float
) -> tuple[float | None, float]:
    """Kappa and its standard error (Fleiss, Levin and Paik, Statistical Methods, 18.1)."""
    n = both_pass + both_fail + judge_only + people_only
    if not n:
        return None, 0.0
    cells = [[both_pass / n, judge_only / n], [people_only / n, both_fail / n]]
    judge = [sum(row) for row in cells]
    people = [cells[0][i] + cells[1][i] for i in (0, 1)]
    same = cells[0][0] + cells[1][1]
    chance = sum(a * b for a, b in zip(judge, people, strict=True))
    if chance >= 1:
        return None, 0.0
    kappa = (same - chance) / (1 - chance)
    a = sum(cells[i][i] * (1 - (judge[i] + people[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    b = (1 - kappa) ** 2 * sum(cells[i][1 - i] * (people[i] + judge[1 - i]) ** 2 for i in (0, 1))
    c = (kappa - chance * (1 - kappa)) ** 2
    return kappa, sqrt(max(0.0, a + b - c) / n) / (1 - chance)


def read_labelled(path: Path) -> list[Labelled]:
    """Lines of `{input, output, expected, label}`.

    Raises:
        DatasetError: the file cannot be read, or a line is none of that; the message names it.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            one = Labelled.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            field = str(fault["loc"][0]) if fault["loc"] else "the line"
            wrong = "must be pass, fail or a number from 0 to 1" if field == "label" else fault["msg"]
            raise DatasetError(f"{path}:{number}: {field}: {wrong}") from error
        if not isinstance(one.label, str) and not 0 <= one.label <= 1:
            raise DatasetError(f"{path}:{number}: label: {one.label} is not from 0 to 1")
        found.append(one)
    if not found:
        raise DatasetError(f"{path}: there is no line in it")
    return found
