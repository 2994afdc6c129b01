"""`trivium rollout`: where a feature stands, what its figures support, and the decision carried out."""

import asyncio
import getpass
import json
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from trivium.domain.inference import Arm
from trivium.domain.rollout import Action, Stage
from trivium.features import Catalogue, Feature, load_catalogue
from trivium.flag_admin import FlagAdminSettings
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.domain.scorecard import Metrics
    from trivium.rollouts.stages import Rollouts
    from trivium.rollouts.status import FeatureStatus
    from trivium.store.outcomes import OutcomeRepository

console = Console(soft_wrap=True)
NO_FIGURE = "-"


class RolloutSettings(StoreSettings, FlagAdminSettings):
    """What the commands about rollouts read from the environment."""


def rollout(
    name: Annotated[str, typer.Argument(help="The feature.")],
    advance: Annotated[bool, typer.Option("--advance", help="To the next stage.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Record that it stays where it is.")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="The kill switch: to staging, or `--to`, at once.")
    ] = False,
    to: Annotated[Stage | None, typer.Option(help="Of a roll-back: an earlier stage.")] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Advance though the gates do not support it.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    by: Annotated[str | None, typer.Option(help="Who decides; by default user@host.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Shows stage, metrics, verdicts and the decision that they support; or carries a decision out.

    Exits 1 if an advance is refused.
    """
    asked = _asked(advance, hold, roll_back)
    _check_options(asked, to, override, reason)
    settings = RolloutSettings()
    catalogue = load_catalogue(settings.features_dir)
    feature = catalogue.get(name)
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"

    async def work(rollouts: "Rollouts", outcomes: "OutcomeRepository") -> int:
        from trivium.rollouts.status import status_of

        if asked == "roll_back":  # the kill switch waits for no figures
            return await _roll_back(rollouts, feature, to or Stage.STAGING, who, reason)
        status = await status_of(feature, rollouts, outcomes)
        if asked is None:
            _print(status, as_json)
            return 0
        if asked == "hold":
            await rollouts.move(
                feature, "hold", status.standing.stage, by=who, reason=reason, figures=status.figures()
            )
            console.print(f"{feature.name} is held in {status.standing.stage.value}")
            return 0
        return await _advance(rollouts, catalogue, feature, status, who, reason, override)

    raise typer.Exit(asyncio.run(with_rollouts(settings, work)))


async def with_rollouts(
    settings: RolloutSettings, work: "Callable[[Rollouts, OutcomeRepository], Awaitable[int]]"
) -> int:
    """Does work on the rollouts of the configured database and flags."""
    import aiohttp

    from trivium.flag_admin import make_flag_admin
    from trivium.rollouts.stages import Rollouts
    from trivium.store.decisions import DecisionRepository
    from trivium.store.engine import Database, migrate
    from trivium.store.outcomes import OutcomeRepository

    settings = settings.model_copy(update={"flags_file": settings.resolved_flags_file})
    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        async with aiohttp.ClientSession() as session:
            rollouts = Rollouts(DecisionRepository(database), make_flag_admin(settings, session))
            return await work(rollouts, OutcomeRepository(database))
    finally:
        await database.close()


async def _roll_back(rollouts: "Rollouts", feature: Feature, to: Stage, who: str, reason: str) -> int:
    standing = await rollouts.now(feature)
    stages = list(Stage)
    if standing.stage is not Stage.STAGING and stages.index(to) >= stages.index(standing.stage):
        raise typer.BadParameter(f"{to.value} is not before {standing.stage.value}", param_hint="--to")
    await rollouts.move(feature, "roll_back", to, by=who, reason=reason, figures={})
    console.print(f"{feature.name} is rolled back from {standing.stage.value} to {to.value}")
    return 0


async def _advance(
    rollouts: "Rollouts",
    catalogue: Catalogue,
    feature: Feature,
    status: "FeatureStatus",
    who: str,
    reason: str,
    override: bool,
) -> int:
    stage = status.standing.stage.next
    if stage is None:
        console.print(f"[red]{feature.name} is in ga, the last stage[/]")
        return 1
    if status.supports != "advance" and not override:
        console.print(f"[red]refused[/]: {feature.name} stays in {status.standing.stage.value}")
        for why in status.why:
            console.print(f"  {why}", markup=False)
        console.print("  carry it out all the same with --override --reason '…', which is recorded")
        return 1
    if stage is Stage.LIMITED:
        await _warn_of_others(rollouts, catalogue, feature)
    await rollouts.move(
        feature,
        "advance",
        stage,
        by=who,
        reason=reason or "; ".join(status.why),
        figures=status.figures(),
        overridden=status.supports != "advance",
    )
    console.print(f"{feature.name} advances from {status.standing.stage.value} to {stage.value}")
    return 0


async def _warn_of_others(rollouts: "Rollouts", catalogue: Catalogue, feature: Feature) -> None:
    """One feature at a time in `limited`: two at once share the attention that each needs."""
    for other in catalogue:
        if other.name == feature.name or other.manifest.owner != feature.manifest.owner:
            continue
        if (await rollouts.now(other)).stage is Stage.LIMITED:
            console.print(
                f"[yellow]{other.name} of the same owner, {other.manifest.owner}, is in limited too[/]"
            )


def _asked(advance: bool, hold: bool, roll_back: bool) -> Action | None:
    chosen: list[Action] = []
    chosen += ["advance"] if advance else []
    chosen += ["hold"] if hold else []
    chosen += ["roll_back"] if roll_back else []
    if len(chosen) > 1:
        raise typer.BadParameter("give one of --advance, --hold, --roll-back")
    return chosen[0] if chosen else None


def _check_options(asked: Action | None, to: Stage | None, override: bool, reason: str) -> None:
    if to is not None and asked != "roll_back":
        raise typer.BadParameter("goes with --roll-back", param_hint="--to")
    if override and asked != "advance":
        raise typer.BadParameter("goes with --advance", param_hint="--override")
    if (asked in ("hold", "roll_back") or override) and not reason.strip():
        raise typer.BadParameter("say why, for the record", param_hint="--reason")


def _print(status: "FeatureStatus", as_json: bool) -> None:
    from trivium.rollouts.status import verdict_line

    if as_json:
        typer.echo(json.dumps(as_object(status)))
        return
    standing = status.standing
    days = "" if standing.days is None else f" for {standing.days:.1f} days"
    console.print(f"\n[bold]{status.feature}[/] in [bold]{standing.stage.value}[/]{days}")
    console.print(f"  serves {status.variant} {status.version}, owner {status.owner}")
    if standing.percent is not None:
        console.print(f"  the flag is on for {standing.percent} % of the subjects")
    table = Table("", "treatment", "control")
    for label, pick in _ROWS:
        table.add_row(label, *(pick(status.arms.get(arm)) for arm in Arm))
    console.print(table)
    for verdict in status.judgement.verdicts:
        console.print(f"  {verdict_line(verdict)}", markup=False)
    console.print(f"supports: [bold]{status.supports.replace('_', ' ')}[/]")
    for why in status.why:
        console.print(f"  {why}", markup=False)


def as_object(status: "FeatureStatus") -> dict[str, object]:
    """A status as the commands and the gateway give it in JSON."""
    decision = status.standing.decision
    return {
        "feature": status.feature,
        "owner": status.owner,
        "variant": status.variant,
        "version": status.version,
        "stage": status.standing.stage.value,
        "days": status.standing.days,
        **status.figures(),
        "decided_by": decision.decided_by if decision else None,
        "reason": decision.reason if decision else None,
    }


def _estimated(metric: str) -> "Callable[[Metrics | None], str]":
    def told(metrics: "Metrics | None") -> str:
        from trivium.rollouts.status import shown

        found = getattr(metrics, metric) if metrics else None
        if found is None:
            return NO_FIGURE
        low, high = shown(metric, found.low), shown(metric, found.high)
        return f"{shown(metric, found.value)} ({low} to {high})"

    return told


_ROWS: "list[tuple[str, Callable[[Metrics | None], str]]]" = [
    ("subjects", lambda metrics: f"{metrics.subjects:,}" if metrics else NO_FIGURE),
    ("requests", lambda metrics: f"{metrics.requests:,}" if metrics else NO_FIGURE),
    ("judged", lambda metrics: f"{metrics.judged:,}" if metrics else NO_FIGURE),
    ("adoption", _estimated("adoption")),
    ("override rate", _estimated("override_rate")),
    ("P50", _estimated("p50_ms")),
    ("P99", _estimated("p99_ms")),
    ("error rate", _estimated("error_rate")),
]
