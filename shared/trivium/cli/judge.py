"""`trivium judge`: whether a model that judges agrees with people."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trivium.cli.evaluate import opened
from trivium.errors import ConfigurationError
from trivium.features import find_feature
from trivium.llm.settings import BackendSettings

app = typer.Typer(help="Models that judge answers.", no_args_is_help=True)
console = Console(soft_wrap=True)


@app.callback()
def judges() -> None:
    """Models that judge answers."""


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A feature whose manifest has a judge.")],
    labels: Annotated[Path, typer.Option(help="JSONL of input, output, expected, label: pass or fail.")],
) -> None:
    """Has the feature's judges look at answers that people have labelled, and prints how far they agree."""
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)

    async def work() -> None:
        from trivium.evals.evaluators import Judge, make_evaluators
        from trivium.evals.evaluators.judge import agreement, read_labelled

        labelled = read_labelled(labels)
        async with opened(settings) as (backends, _):
            judges = [one for one in make_evaluators(feature, backends) if isinstance(one, Judge)]
            if not judges:
                raise ConfigurationError(f"{feature.name}: there is no judge among evaluation.evaluators")
            for judge in judges:
                with console.status(f"{judge.name} looks at {len(labelled)} answers"):
                    found = await agreement(judge, labelled)
                agreed = found.agreed
                console.print(
                    f"{judge.name} ({judge.model}): agrees on {agreed.value:.1%} "
                    f"({agreed.low:.1%} to {agreed.high:.1%}, n {found.n}), Cohen's kappa {found.kappa:.2f}"
                )
                console.print(
                    f"  both pass {found.both_pass}, both fail {found.both_fail}, only the judge passes "
                    f"{found.judge_only}, only people pass {found.people_only}"
                )

    asyncio.run(work())
