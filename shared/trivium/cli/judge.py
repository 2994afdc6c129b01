"""`trivium judge`: whether a model that judges agrees with people."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from trivium.cli.evaluate import opened
from trivium.cli.screen import Console
from trivium.errors import ConfigurationError
from trivium.features import find_feature
from trivium.llm.settings import BackendSettings

if TYPE_CHECKING:
    from trivium.evals.evaluators import Judge
    from trivium.evals.evaluators.agreement import Agreement

app = typer.Typer(help="Models that judge answers.", no_args_is_help=True)
console = Console(soft_wrap=True)
SHOWN = 5


@app.callback()
def judges() -> None:
    """Models that judge answers."""


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A feature whose manifest has a judge.")],
    labels: Annotated[
        Path,
        typer.Option(help="JSONL of input, output, expected, and label: pass, fail, or a score of 0 to 1."),
    ],
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Answers that are judged at once.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Has the feature's judges look at answers that people have labelled, and prints how far they agree."""
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)

    async def work() -> "list[tuple[Judge, Agreement]]":
        from trivium.evals.evaluators import Judge, make_evaluators
        from trivium.evals.evaluators.agreement import agreement, read_labelled

        labelled = read_labelled(labels)
        found = []
        async with opened(settings) as (backends, _):
            judges = [one for one in make_evaluators(feature, backends) if isinstance(one, Judge)]
            if not judges:
                raise ConfigurationError(f"{feature.name}: there is no judge among evaluation.evaluators")
            with Progress(console=console, disable=as_json or not sys.stdout.isatty()) as progress:
                for judge in judges:
                    bar = progress.add_task(judge.name, total=len(labelled))
                    told = lambda bar=bar: progress.advance(bar)  # noqa: E731
                    found.append((judge, await agreement(judge, labelled, at_once=at_once, told=told)))
        return found

    found = asyncio.run(work())
    if as_json:
        typer.echo(json.dumps([_object(judge, one) for judge, one in found], ensure_ascii=False))
        return
    for judge, one in found:
        _show(judge, one)


def _show(judge: "Judge", found: "Agreement") -> None:
    from trivium.evals.reports import estimate

    kappa = "not defined: all labels are alike" if found.kappa is None else estimate(found.kappa)
    console.print(f"[bold]{judge.name}[/] ({judge.model}) on {found.n} answers that people have labelled")
    console.print(f"  agrees: {estimate(found.agreed)}")
    console.print(f"  Cohen's kappa: {kappa}")
    if found.consistency:
        console.print(f"  says the same with the places swapped: {estimate(found.consistency)}")
    console.print(
        f"  both pass {found.both_pass}, both fail {found.both_fail}, only the judge passes "
        f"{found.judge_only}, only people pass {found.people_only}"
    )
    if found.failed:
        console.print(f"  could not judge {len(found.failed)}, such as: {found.failed[0]}", style="yellow")
    for labelled, opinion in found.disagreements[:SHOWN]:
        shown = json.dumps(labelled.output, ensure_ascii=False)
        console.print(
            f"  people {labelled.label}, judge {opinion.score:.2f}: {shown}\n      {opinion.reason}",
            markup=False,
        )


def _object(judge: "Judge", found: "Agreement") -> dict[str, Any]:
    from dataclasses import asdict

    told = {"judge": judge.name, "model": judge.model} | asdict(found)
    told["disagreements"] = [
        {**labelled.model_dump(), **asdict(opinion)} for labelled, opinion in found.disagreements
    ]
    return told
