"""`trivium dataset`: from corrections and accepted answers to versions that models are trained on."""

import asyncio
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trivium.cli.audited import audited, note
from trivium.cli.screen import Console
from trivium.cli.train import model_of
from trivium.domain.variants import EdgeVariant
from trivium.features import Feature, find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.corrections.composition import Options
    from trivium.corrections.dataset import Built
    from trivium.corrections.versions import Card, Versions

app = typer.Typer(help="Datasets made of what users said.", no_args_is_help=True)
console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
Name = Annotated[str, typer.Argument(help="The feature.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the datasets; by default `datasets` in the state folder.")
]


@app.command("build")
@audited("dataset.build", detail=("since", "min_agree", "with_base", "out"))
def build(
    name: Name,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only what was answered since then (UTC), and nothing from before."),
    ] = None,
    min_agree: Annotated[int, typer.Option(min=1, help="Subjects who must say that an output is right.")] = 1,
    eval_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Of new inputs, to be evaluated and never trained on.")
    ] = 0.2,
    with_base: Annotated[
        Path | None, typer.Option("--with", help="CSV or JSONL of labelled messages, to train on as well.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Its column of the text.")] = "text",
    label_field: Annotated[str, typer.Option(help="Its column of the label.")] = "label",
    out: Out = None,
) -> None:
    """Makes a new version of what users agree on; without news it makes none, and says so."""
    from trivium.corrections.composition import Options
    from trivium.corrections.sources import read_base

    settings = StoreSettings()
    feature = find_feature(settings.features_dir, name)
    base = read_base(feature, with_base, text_field, label_field) if with_base else None
    moment = None if since is None else since.replace(tzinfo=since.tzinfo or UTC).timestamp()
    versions = _versions(settings, name, out)
    made, queued = asyncio.run(
        _build(settings, feature, versions, Options(moment, min_agree, eval_share, base))
    )
    for warning in made.warnings:
        console.print(f"[yellow]note[/] {warning}", highlight=False)
    _left_out(made.left_out)
    if queued:
        console.print(f"to be reviewed: {queued}, by `trivium review {name}`", markup=False)
    if made.card is None:
        standing = "there is nothing to build from yet"
        if made.same_as is not None:
            standing = f"there is no news: it would be version {made.same_as}, {versions.path(made.same_as)}"
        console.print(f"{name}: {standing}", markup=False)
        return
    note(version=made.card.version)
    _show(made.card, versions.path(made.card.version))
    for line in next_commands(feature, made.card, versions.path(made.card.version)):
        console.print(f"  {line}", markup=False, highlight=False)


@app.command("list")
def list_versions(name: Name, out: Out = None) -> None:
    """Lists the versions of a feature's dataset, each checked against its card."""
    settings = StoreSettings()
    find_feature(settings.features_dir, name)
    versions = _versions(settings, name, out)
    table = Table("version", "from", "made", "train", "eval", "sha256")
    for number in versions.numbers():
        card = versions.load(number)
        train, held = (str(sum(card.counts[side].values())) for side in ("train", "eval"))
        parent = "" if card.parent is None else str(card.parent)
        table.add_row(str(number), parent, card.created_at, train, held, card.content_sha256[:12])
    console.print(table)


@app.command("show")
def show(
    name: Name,
    version: Annotated[int | None, typer.Argument(help="By default the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The card itself.")] = False,
    out: Out = None,
) -> None:
    """Shows a version's card, once its files have been checked against it."""
    settings = StoreSettings()
    feature = find_feature(settings.features_dir, name)
    versions = _versions(settings, name, out)
    number = version if version is not None else max(versions.numbers(), default=0)
    card = versions.load(number)
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
        return
    _show(card, versions.path(number))
    _left_out(card.left_out)
    for line in next_commands(feature, card, versions.path(number)):
        console.print(f"  {line}", markup=False, highlight=False)


def next_commands(feature: Feature, card: "Card", folder: Path) -> list[str]:
    """What to type next: for a model of our own its training, its evaluation and its promotion."""
    edge = [name for name, variant in feature.variants.items() if isinstance(variant.spec, EdgeVariant)]
    if not edge or card.label_field is None or card.text_field is None:
        return [f"# {folder / 'eval.jsonl'} has the form of the dataset that a manifest names"]
    credit = f"{feature.name} dataset {card.version}, sha256 {card.content_sha256[:12]}"
    words = ["trivium", "train", feature.name, "--data", str(folder / "train.jsonl")]
    words += ["--text-field", card.text_field, "--label-field", card.label_field, "--credit", credit]
    served = feature.manifest.serve if feature.manifest.serve in edge else edge[0]
    new, manifest = "the-new-variant", feature.folder / "feature.yaml"
    return [
        shlex.join(words),
        f"# then in {manifest} the variant {new}, with model: {model_of(feature)}/<its version>",
        f"trivium eval {feature.name} --variant {served}",
        f"trivium eval {feature.name} --variant {new} --against {served}",
        f"trivium variant promote {feature.name} {new}",
    ]


async def _build(
    settings: StoreSettings, feature: Feature, versions: "Versions", options: "Options"
) -> "tuple[Built, int]":
    from trivium.corrections import dataset
    from trivium.corrections.evidence import gather
    from trivium.corrections.review import queue
    from trivium.store.corrections import CorrectionRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        repository = CorrectionRepository(database)
        with errors.status(f"reading what was said of {feature.name}"):
            evidence = await gather(feature, repository, options.since or 0.0)
            verdicts = await repository.verdicts(feature.name)
        made = await asyncio.to_thread(dataset.build, feature, versions, evidence, verdicts, options)
        return made, len(queue(feature, evidence, verdicts))
    finally:
        await database.close()


def _versions(settings: StoreSettings, name: str, out: Path | None) -> "Versions":
    from trivium.corrections.versions import Versions

    return Versions(out or settings.state_dir / "datasets", name)


def _left_out(left_out: dict[str, int]) -> None:
    for why, count in sorted(left_out.items()):
        console.print(f"  left out: {count} {why}", markup=False)


def _show(card: "Card", folder: Path) -> None:
    parent = "the first" if card.parent is None else f"from version {card.parent}"
    console.print(f"[bold]{card.feature}[/] dataset {card.version}, {parent}: {folder}")
    console.print(f"  {card.created_at}, sha256 {card.content_sha256}")
    kinds = sorted({kind for side in card.counts.values() for kind in side})
    table = Table("", *kinds, "all")
    for side, counts in card.counts.items():
        table.add_row(side, *(str(counts.get(kind, 0)) for kind in kinds), str(sum(counts.values())))
    console.print(table)
    if card.labels:
        console.print(f"  {len(card.labels)} labels to train on")
    if card.variants:
        console.print(f"  answered by {', '.join(card.variants)}")
