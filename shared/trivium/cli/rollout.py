"""`trivium rollout`: where a feature stands, what its figures support, and the decision carried out."""

import asyncio
import getpass
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trivium.cli.audited import Given, audited, note
from trivium.cli.rollout_shown import decision_object, show, status_object
from trivium.cli.rollout_sources import RolloutSettings, opened
from trivium.domain.rollout import Action, Decision, Stage
from trivium.errors import TriviumError, Unavailable
from trivium.features import Catalogue, Feature, load_catalogue

if TYPE_CHECKING:
    from trivium.rollouts.stages import Standing
    from trivium.rollouts.status import FeatureStatus, Sources

console = Console(soft_wrap=True)
warnings = Console(soft_wrap=True, stderr=True)
FIGURES_S = 5.0
"""A roll-back waits no longer for the figures that it is recorded with."""
LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done to a feature, who wants it, and why."""

    feature: Feature
    by: str
    reason: str
    to: Stage = Stage.STAGING
    override: bool = False


class Refused(Exception):
    """What is not done, or not done to its end; with the reasons, and what helps."""

    def __init__(self, why: list[str], hint: str, what: str = "refused") -> None:
        super().__init__("; ".join(why))
        self.why = why
        self.hint = hint
        self.what = what


def _which(given: Given) -> str | None:
    chosen = [name for name in ("advance", "hold", "roll_back") if given[name]]
    return f"rollout.{chosen[0]}" if chosen else None


@audited(
    "rollout.advance",
    "rollout.hold",
    "rollout.roll_back",
    which=_which,
    detail=("to", "override", "reason", "by"),
)
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

    Exits 1 if an advance is refused, or if a roll-back was made and could not be recorded.
    """
    asked = _asked(advance, hold, roll_back)
    _check_options(asked, to, override, reason)
    settings = RolloutSettings()
    catalogue = load_catalogue(settings.features_dir)
    wish = Wish(catalogue.get(name), _who(by), reason, to or Stage.STAGING, override)
    try:
        if asked is None:
            _show(asyncio.run(_look(settings, wish.feature)), as_json)
        else:
            made = asyncio.run(_carry_out(settings, catalogue, asked, wish))
            note(decision=made.id, from_stage=made.from_stage.value, to_stage=made.to_stage.value)
            typer.echo(json.dumps(decision_object(made)) if as_json else _told(made))
    except Refused as refused:
        shown = warnings if as_json else console
        shown.print(f"[red]{refused.what}[/]: {name}")
        for why in (*refused.why, refused.hint):
            shown.print(f"  {why}", markup=False)
        note(why="; ".join(refused.why))
        raise typer.Exit(1) from None


async def _look(settings: RolloutSettings, feature: Feature) -> "FeatureStatus":
    from trivium.rollouts.status import status_of

    async with opened(settings) as sources:
        return await status_of(feature, sources)


async def _carry_out(settings: RolloutSettings, catalogue: Catalogue, action: Action, wish: Wish) -> Decision:
    if action == "roll_back" and wish.to is Stage.STAGING:
        return await _kill(settings, wish)
    async with opened(settings) as sources:
        if action == "roll_back":
            return await _roll_back(sources, wish)
        if action == "hold":
            return await _hold(sources, wish)
        return await _advance(sources, catalogue, wish)


async def _kill(settings: RolloutSettings, wish: Wish) -> Decision:
    """To staging: the flag before anything else, for the database may be away too."""
    flag = wish.feature.manifest.rollout.flag
    async with opened(settings, migrated=False) as sources:
        percent = await sources.rollouts.admin.percent(flag)
        await sources.rollouts.switch(wish.feature, Stage.STAGING)
    warnings.print(f"the flag {flag} is set to staging; every gateway follows at its next refresh")
    try:
        async with opened(settings) as sources:
            standing = await sources.rollouts.standing(wish.feature, percent)
            return await _record(sources, wish, standing)
    except Unavailable as error:
        hint = "the same command, once the database is back, records it"
        raise Refused([error.detail], hint, "rolled back, but not recorded") from error


async def _roll_back(sources: "Sources", wish: Wish) -> Decision:
    standing = await sources.rollouts.now(wish.feature)
    if not wish.to.before(standing.stage):
        raise typer.BadParameter(f"{wish.to.value} is not before {standing.stage.value}", param_hint="--to")
    await sources.rollouts.switch(wish.feature, wish.to)
    return await _record(sources, wish, standing)


async def _record(sources: "Sources", wish: Wish, standing: "Standing") -> Decision:
    """Records a roll-back whose flag is set, with the figures if they can be had soon."""
    from trivium.rollouts.status import status_of

    try:
        async with asyncio.timeout(FIGURES_S):
            figures = (await status_of(wish.feature, sources, standing)).figures()
    except (TriviumError, TimeoutError) as error:
        figures = {"missing": getattr(error, "detail", f"no figures within {FIGURES_S:g} s")}
    return await sources.rollouts.record(
        wish.feature, standing, "roll_back", wish.to, by=wish.by, reason=wish.reason, figures=figures
    )


async def _hold(sources: "Sources", wish: Wish) -> Decision:
    from trivium.rollouts.status import status_of

    status = await status_of(wish.feature, sources)
    return await sources.rollouts.move(
        wish.feature,
        "hold",
        status.standing.stage,
        by=wish.by,
        reason=wish.reason,
        figures=status.figures(),
    )


async def _advance(sources: "Sources", catalogue: Catalogue, wish: Wish) -> Decision:
    from trivium.rollouts.status import status_of

    status = await status_of(wish.feature, sources)
    stage = status.standing.stage.next
    if stage is None or status.barred:
        raise Refused(status.barred, "that cannot be overridden")
    if status.supports != "advance" and not wish.override:
        hint = "carry it out all the same with --override --reason '…', which is recorded"
        raise Refused(status.why, hint)
    if stage is Stage.LIMITED:
        await _warn_of_others(sources, catalogue, wish.feature)
    return await sources.rollouts.move(
        wish.feature,
        "advance",
        stage,
        by=wish.by,
        reason=wish.reason or "; ".join(status.why),
        figures=status.figures(),
        overridden=status.supports != "advance",
    )


async def _warn_of_others(sources: "Sources", catalogue: Catalogue, feature: Feature) -> None:
    """One feature at a time in `limited`: two at once share the attention that each needs."""
    for other in catalogue:
        if other.name == feature.name or other.manifest.owner != feature.manifest.owner:
            continue
        if (await sources.rollouts.now(other)).stage is Stage.LIMITED:
            told = f"{other.name} of the same owner, {other.manifest.owner}, is in limited too"
            warnings.print(told, style="yellow", markup=False)


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


def _who(by: str | None) -> str:
    if by is None:
        return f"{getpass.getuser()}@{socket.gethostname()}"[:LONGEST_NAME]
    if not by.strip() or len(by) > LONGEST_NAME:
        raise typer.BadParameter(f"1 to {LONGEST_NAME} characters, it has {len(by)}", param_hint="--by")
    return by


def _show(status: "FeatureStatus", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(status_object(status)))
    else:
        show(console, status)


def _told(made: Decision) -> str:
    what: dict[Action, Any] = {
        "advance": f"advances from {made.from_stage.value} to {made.to_stage.value}",
        "hold": f"is held in {made.to_stage.value}",
        "roll_back": f"is rolled back from {made.from_stage.value} to {made.to_stage.value}",
    }
    return f"{made.feature} {what[made.action]}"
