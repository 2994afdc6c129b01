"""`trivium review`: decides on the inputs of which users say different things."""

import asyncio
import getpass
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trivium.cli.audited import acting, audited
from trivium.cli.review_display import show, text
from trivium.cli.screen import Console
from trivium.errors import SchemaViolation
from trivium.features import Feature, find_feature
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.corrections.evidence import Evidence
    from trivium.corrections.review import Queued
    from trivium.domain.corrections import Verdict
    from trivium.store.corrections import CorrectionRepository

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


@audited(
    "review.decide",
    which=lambda given: "review.decide" if given["accept"] or given["amend"] or given["drop"] else None,
    detail=("accept", "value", "amend", "drop", "reason", "by"),
)
def review(
    name: Annotated[str, typer.Argument(help="The feature.")],
    list_only: Annotated[bool, typer.Option("--list", help="Only show what is queued.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: one JSON object a line.")] = False,
    accept: Annotated[str | None, typer.Option(help="Hash of an input: one of its values is right.")] = None,
    value: Annotated[int | None, typer.Option(min=1, help="Which; by default that of most subjects.")] = None,
    amend: Annotated[str | None, typer.Option(help="Hash of an input: something else is right.")] = None,
    output: Annotated[str | None, typer.Option(help="With --amend: the right output, as JSON.")] = None,
    drop: Annotated[str | None, typer.Option(help="Hash of an input: it teaches nothing.")] = None,
    reason: Annotated[str | None, typer.Option(help="For the record; needed with --drop.")] = None,
    by: Annotated[str | None, typer.Option(help="Who decides; by default user@host.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the datasets; by default `datasets` in the state folder.")
    ] = None,
) -> None:
    """Shows the inputs on which users disagree, one after the other, and asks what is right.

    Every verdict is stored at once, and takes effect in the next `trivium dataset build`.
    """
    hashes = [one for one in (accept, amend, drop) if one is not None]
    if len(hashes) + list_only > 1:
        raise typer.BadParameter("give one of --list, --accept, --amend, --drop")
    _check_options(list_only, as_json, accept, value, amend, output, drop, reason)
    settings = StoreSettings()
    feature = find_feature(settings.features_dir, name)
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    # The terminal is asked outside of the event loop, where Ctrl-C is heard at once.
    desk = asyncio.run(_read(settings, feature, out or settings.state_dir / "datasets"))
    if list_only:
        _list(desk, as_json)
    elif hashes:
        desk.decide(_asked(desk, hashes[0], accept, value, amend, output, who, reason))
    else:
        _interactive(desk, who)


@dataclass(slots=True)
class Desk:
    """What is queued of a feature, and where verdicts go."""

    settings: StoreSettings
    feature: Feature
    evidence: "Evidence"
    queued: "list[Queued]"
    known: set[str]

    def decide(self, verdict: "Verdict") -> None:
        """Stores a verdict and says so."""
        asyncio.run(self._store(verdict))
        told = "" if verdict.output is None else f" {text(verdict.output)}"
        console.print(f"{verdict.input_hash[:12]}: {verdict.verdict}{told}", markup=False)

    async def _store(self, verdict: "Verdict") -> None:
        async with _opened(self.settings) as repository:
            await repository.decide(self.feature.name, verdict)


async def _read(settings: StoreSettings, feature: Feature, datasets: Path) -> Desk:
    from trivium.corrections.evidence import gather
    from trivium.corrections.review import queue
    from trivium.corrections.versions import Versions

    async with _opened(settings) as repository:
        with errors.status(f"reading what was said of {feature.name}"):
            evidence = await gather(feature, repository)
            verdicts = await repository.verdicts(feature.name)
    known = {*evidence.tallies, *verdicts, *Versions(datasets, feature.name).sides()}
    return Desk(settings, feature, evidence, queue(feature, evidence, verdicts), known)


@asynccontextmanager
async def _opened(settings: StoreSettings) -> "AsyncIterator[CorrectionRepository]":
    from trivium.store.corrections import CorrectionRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    try:
        await migrate(database)
        yield CorrectionRepository(database)
    finally:
        await database.close()


def _check_options(
    list_only: bool,
    as_json: bool,
    accept: str | None,
    value: int | None,
    amend: str | None,
    output: str | None,
    drop: str | None,
    reason: str | None,
) -> None:
    if as_json and not list_only:
        raise typer.BadParameter("goes with --list", param_hint="--json")
    if value is not None and accept is None:
        raise typer.BadParameter("goes with --accept", param_hint="--value")
    if (output is None) != (amend is None):
        raise typer.BadParameter("--amend and --output go together", param_hint="--output")
    if drop is not None and not (reason or "").strip():
        raise typer.BadParameter("say why, for the record", param_hint="--reason")


def _asked(
    desk: Desk,
    prefix: str,
    accept: str | None,
    value: int | None,
    amend: str | None,
    output: str | None,
    who: str,
    reason: str | None,
) -> "Verdict":
    from trivium.corrections.review import accepted, amended, dropped, full_hash

    if accept is not None:
        hashed = full_hash(prefix, desk.evidence.tallies)
        return accepted(desk.evidence.tallies[hashed], value, who, reason)
    hashed = full_hash(prefix, desk.known)
    if amend is not None:
        return amended(desk.feature, hashed, _json(output or ""), who, reason)
    return dropped(hashed, who, reason or "")


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}: {text!r}", param_hint="--output") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"not an object: {text!r}", param_hint="--output")
    return found


def _list(desk: Desk, as_json: bool) -> None:
    for one in desk.queued:
        if as_json:
            typer.echo(json.dumps(one.as_object(), ensure_ascii=False))
        else:
            show(console, one.as_object())
    if not as_json and not desk.queued:
        console.print(f"{desk.feature.name}: nothing is queued")


def _interactive(desk: Desk, who: str) -> None:
    if not desk.queued:
        console.print(f"{desk.feature.name}: nothing is queued")
        return
    left = len(desk.queued)
    try:
        for place, one in enumerate(desk.queued, start=1):
            console.print(f"\n[bold]{place} of {len(desk.queued)}[/]")
            show(console, one.as_object())
            answer = _prompt(desk, one, who)
            if answer == "q":
                break
            if answer != "s":
                about = {"input": answer.input_hash, "verdict": answer.verdict, "by": who}
                with acting("review.decide", desk.feature.name, **about):
                    desk.decide(answer)
                left -= 1
    except (KeyboardInterrupt, EOFError, typer.Abort):
        console.print()
    console.print(f"{left} left; what was decided is stored")


def _prompt(desk: Desk, one: "Queued", who: str) -> "Verdict | Literal['s', 'q']":
    from trivium.corrections.review import accepted, dropped

    while True:
        said = typer.prompt("number accepts, [a]mend, [d]rop, [s]kip, [q]uit").strip().lower()
        if said in ("s", "q"):
            return "q" if said == "q" else "s"
        if said == "d":
            return dropped(one.tally.input_hash, who, typer.prompt("why"))
        if said.isdecimal() and 1 <= int(said) <= len(one.tally.rights):
            return accepted(one.tally, int(said), who, None)
        if said == "a":
            if verdict := _amendment(desk, one, who):
                return verdict
        else:
            console.print(f"{said!r} is none of them", markup=False)


def _amendment(desk: Desk, one: "Queued", who: str) -> "Verdict | None":
    from trivium.corrections.review import amended

    said = typer.prompt("the right output, as JSON")
    try:
        return amended(desk.feature, one.tally.input_hash, _json(said), who, None)
    except SchemaViolation as error:
        console.print(error.detail, style="red", markup=False)
    except typer.BadParameter as error:
        console.print(error.message, style="red", markup=False)
    return None
