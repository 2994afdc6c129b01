"""`trivium`: every command, each thin over the package."""

import json

import typer
from pydantic import ValidationError

from trivium.cli import (
    audit,
    compare,
    costs,
    data,
    dataset,
    db,
    drift,
    edge_cases,
    evaluate,
    judge,
    keys,
    load,
    precompute,
    prompt,
    results,
    review,
    rollout,
    smoke,
    status,
    train,
    up,
    variant,
)
from trivium.cli.screen import Console
from trivium.domain.manifest import manifest_schema
from trivium.domain.variants import ApiVariant
from trivium.errors import TriviumError
from trivium.promotions import unpromoted
from trivium.settings import Settings

app = typer.Typer(help="Carries an AI feature from pilot to general availability.", no_args_is_help=True)
features = typer.Typer(help="Features and their manifests.", no_args_is_help=True)
app.add_typer(features, name="features")
app.add_typer(keys.app, name="keys")
app.add_typer(data.app, name="data")
app.add_typer(dataset.app, name="dataset")
app.command("review")(review.review)
app.add_typer(db.app, name="db")
app.add_typer(results.app, name="results")
app.add_typer(prompt.app, name="prompt")
app.command("precompute")(precompute.precompute)
app.command("costs")(costs.costs)
app.command("audit")(audit.audit)
app.command("edge-cases")(edge_cases.edge_cases)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.add_typer(variant.app, name="variant")
app.add_typer(judge.app, name="judge")
app.command("rollout")(rollout.rollout)
app.command("drift")(drift.drift)
app.command("smoke")(smoke.smoke)
app.command("status")(status.status)
app.command("train")(train.train)
app.command("load")(load.load)
app.command("up")(up.up)
console = Console(soft_wrap=True)
VARIABLES = ("TRIVIUM", "ANTHROPIC", "OPENAI", "GEMINI", "GOOGLE")
errors = Console(stderr=True, soft_wrap=True)


@features.command("check")
def check() -> None:
    """Prints every fault of every manifest with file and line; exits 1 if there is one."""
    from trivium.features import load_catalogue
    from trivium.llm.prompts import Prompt

    folder = Settings().features_dir
    for feature in load_catalogue(folder):
        for one in feature.variants.values():
            if isinstance(one.spec, ApiVariant) and one.prompt is not None:
                source = str(feature.folder / one.spec.prompt)
                Prompt(one.prompt, source, feature.manifest.input).render(feature.manifest.example.input)
        served = feature.variants[feature.manifest.serve]
        console.print(
            f"[green]ok[/] {feature.name}: serves {served.name} ({served.spec.pattern}, {served.version})"
        )
        if missing := unpromoted(feature):
            console.print(f"warning: {missing}", style="yellow", markup=False)


@features.command("schema")
def schema() -> None:
    """Prints the JSON Schema of a manifest, for editors."""
    typer.echo(json.dumps(manifest_schema(), indent=2, ensure_ascii=False))


def run() -> None:
    """Entry point: an error of ours is a line a fault, not a trace."""
    try:
        app()
    except TriviumError as error:
        errors.print(error.detail, style="red", markup=False, highlight=False)
        raise SystemExit(1) from error
    except ValidationError as error:
        for fault in error.errors():
            name = "_".join(map(str, fault["loc"])).upper()
            name = name if name.startswith(VARIABLES) else f"TRIVIUM_{name}"
            given = fault.get("input")
            errors.print(f"{name}: {fault['msg']}, not {given!r}", style="red", markup=False)
        raise SystemExit(2) from error
    except OSError as error:
        errors.print(f"{error.filename or 'trivium'}: {error.strerror or error}", style="red", markup=False)
        raise SystemExit(1) from error


if __name__ == "__main__":
    run()
