"""`trivium variant`: which versions have passed their evaluation, and which is served."""

import asyncio
import getpass
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trivium.cli.audited import audited, note
from trivium.cli.evaluate import variant_of
from trivium.features import Feature, find_feature
from trivium.llm.settings import BackendSettings
from trivium.promotions import promotions_of

if TYPE_CHECKING:
    from trivium.store.evaluations import EvaluationRepository

app = typer.Typer(help="Variants and their promotion.", no_args_is_help=True)
console = Console(soft_wrap=True)
Name = Annotated[str, typer.Argument(help="The feature.")]


@app.command("list")
def list_variants(name: Name) -> None:
    """Lists a feature's variants with their versions, last evaluations and promotions."""
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)
    promoted = promotions_of(feature.folder)

    async def work(evaluations: "EvaluationRepository") -> None:
        table = Table("variant", "pattern", "version", "evaluated", "promoted", "")
        for variant in feature.variants.values():
            row = await evaluations.latest(feature.name, variant=variant.name, version=variant.version)
            told = "never" if row is None else "passed" if row["passed"] else "not passed"
            one = promoted.get(variant.name)
            which = "" if one is None else "yes" if one.version == variant.version else f"{one.version} was"
            served = "served" if variant.name == feature.manifest.serve else ""
            table.add_row(variant.name, variant.spec.pattern, variant.version, told, which, served)
        console.print(table)

    asyncio.run(_with_evaluations(settings, work))


@app.command("promote")
@audited("variant.promote", detail=("variant", "reason", "by"))
def promote(
    name: Name,
    variant: Annotated[str, typer.Argument(help="The variant that is to be served.")],
    reason: Annotated[str, typer.Option(help="For the record.")] = "passed its evaluation",
    by: Annotated[str | None, typer.Option(help="Who decides; by default user@host.")] = None,
) -> None:
    """Serves a variant, also beyond `staging`, if this very version has passed its evaluation.

    Writes promoted.json and the manifest's line `serve:`. Exits 1, saying what is missing, if it did not.
    """
    settings = BackendSettings()
    feature = find_feature(settings.features_dir, name)
    variant_of(feature, variant)
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"

    async def work(evaluations: "EvaluationRepository") -> int:
        from trivium.evals.promoting import promote as write

        row, missing = await _passed(evaluations, feature, variant)
        if row is None:
            console.print(f"[red]refused[/]: {name} {variant} {feature.variants[variant].version}")
            for told in missing:
                console.print(f"  {told}", markup=False)
            return 1
        was = feature.manifest.serve
        note(version=row["version"], was=was)
        write(feature, variant, row, by=who, reason=reason)
        console.print(f"{name} {variant} {row['version']} is promoted" + _moved(was, variant))
        return 0

    raise typer.Exit(asyncio.run(_with_evaluations(settings, work)) or 0)


async def _passed(
    evaluations: "EvaluationRepository", feature: Feature, variant: str
) -> tuple[dict[str, Any] | None, list[str]]:
    """The evaluation that allows a promotion, or what is missing for one."""
    from trivium.evals.promoting import missing_for

    version = feature.variants[variant].version
    row = await evaluations.latest(feature.name, variant=variant, version=version)
    missing = missing_for(feature, variant, row)
    return (None, missing) if missing else (row, [])


async def _with_evaluations(settings: BackendSettings, work: Any) -> Any:
    from trivium.store.engine import Database, migrate
    from trivium.store.evaluations import EvaluationRepository

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        return await work(EvaluationRepository(database))
    finally:
        await database.close()


def _moved(was: str, now: str) -> str:
    return (
        " and goes on being served" if was == now else f" and is served instead of {was}; restart to serve it"
    )
