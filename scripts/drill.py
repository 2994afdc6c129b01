"""`make drill`: the platform under open-loop load while each part in turn is broken and restored.

Everything runs on this machine and ends with the command: PostgreSQL, Valkey and the language model as
servers of their own, gateway, edge model and worker by `trivium up`, and proxies between them that can
swallow or delay.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer
from drills.faults import Fault, all_faults
from drills.ledger import lost
from drills.load import BAD, Kind, Load, Sample
from drills.report import Row, print_rows, problems, written
from drills.runs import Run, begin_run, end_run
from drills.site import Site
from drills.usage import Usage, usage
from rich.console import Console

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/reliability.md"
ARCHIVE = ROOT / "features/similar-tickets/archive.jsonl"
QUIET_S = 3.0
"""So long nothing may go wrong before a fault counts as recovered from."""
RECOVER_S = 60.0
TICKETS = 50
WITH_RUN = ("edge", "worker", "valkey", "postgres", "none")
console = Console(highlight=False, width=150)


def main(
    only: Annotated[str, typer.Option(help="Faults by name, with commas: 'edge:kill -9,disk:full'.")] = "",
    fault_s: Annotated[float, typer.Option(help="How long each fault lasts.", min=0.5)] = 5.0,
    rate: Annotated[float, typer.Option(help="Times the usual 37 requests a second.", min=0.1)] = 1.0,
    usage_s: Annotated[
        float, typer.Option(help="How long CPU and memory are watched, twice.", min=0.5)
    ] = 10.0,
    flag_server: Annotated[bool, typer.Option(help="With Unleash, where Node is there.")] = True,
    write: Annotated[bool, typer.Option(help="Write the tables into docs/reliability.md.")] = False,
) -> None:
    """Prints a row a fault; exits 1 if a request hung or something acknowledged was lost."""
    rows, idle, busy = asyncio.run(
        _drill([one for one in only.split(",") if one], fault_s, rate, usage_s, flag_server)
    )
    print_rows(console, rows, idle, busy)
    if write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), rows, idle, busy, fault_s))
    found = problems(rows)
    for one in found:
        console.print(f"[red]{one}[/]")
    raise typer.Exit(int(bool(found)))


@dataclass(slots=True)
class Watched:
    """One fault's time on the clock, and the run that it fell upon."""

    fault: Fault
    began: float
    ended: float
    over: float
    run: Run | None


async def _drill(
    only: Sequence[str], fault_s: float, rate: float, usage_s: float, flag_server: bool
) -> tuple[list[Row], list[Usage], list[Usage]]:
    async with Site(flag_server=flag_server) as site:
        console.print("The platform is up; first its use at rest.")
        idle = await usage(site, usage_s)
        load = Load(site.platform.url("gateway", ""), site.platform.key, _kinds(rate, await _tickets(site)))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(QUIET_S)
        busy = await usage(site, usage_s)
        chosen = [one for one in all_faults(site) if not only or one.name in only]
        watched, skipped = [], []
        for fault in chosen:
            if fault.missing:
                console.print(f"  {fault.name}: skipped, {fault.missing}")
                skipped.append(Row.skipped(fault, fault.missing))
                continue
            with console.status(f"{fault.part}: {fault.kind}"):
                watched.append(await _watch(site, load, fault, fault_s))
            console.print(f"  {fault.name}: over after {watched[-1].over - watched[-1].began:.1f} s")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        missing = await lost(site.database_url, load.samples)
    return [_row(load.samples, one, missing) for one in watched] + skipped, idle, busy


async def _watch(site: Site, load: Load, fault: Fault, fault_s: float) -> Watched:
    run = await begin_run(site) if fault.part in WITH_RUN else None
    began = time.monotonic()
    await fault.begin(site)
    try:
        await asyncio.sleep(fault_s)
    finally:
        await fault.end(site)
    ended = began if fault.heals else time.monotonic()
    until = time.monotonic() + RECOVER_S
    while time.monotonic() < until:
        await asyncio.sleep(0.5)
        last_bad = max((s.at for s in load.samples if s.outcome != "answered" and s.at >= began), default=0.0)
        over = max(last_bad, ended) + QUIET_S
        if min(time.monotonic(), load.oldest_due) > over:
            break
    return Watched(fault, began, ended, over, await end_run(site, run) if run else None)


def _row(samples: list[Sample], one: Watched, missing: set[str]) -> Row:
    own = [s for s in samples if one.began <= s.at < one.over]
    bad = [s.at for s in own if s.outcome != "answered"]
    recovered_s = max(0.0, max(bad, default=one.ended) - one.ended)
    if one.over - one.ended > RECOVER_S:
        recovered_s = float("inf")
    gone = sum(1 for s in own if s.kept in missing) + (one.run.missing if one.run else 0)
    why = Counter(s.told for s in own if s.outcome == "degraded" or s.outcome in BAD)
    return Row(one.fault.part, one.fault.kind, Counter(s.outcome for s in own), gone, recovered_s, dict(why))


async def _tickets(site: Site) -> list[dict[str, str]]:
    """Those of the archive that the edge model is sure of: what it hands on is degraded without a fault."""
    tickets = [orjson.loads(line) for line in ARCHIVE.read_bytes().splitlines()][: 4 * TICKETS]
    sure = []
    for ticket in tickets:
        body = {"input": {"text": ticket["text"]}}
        answer = await asyncio.to_thread(site.platform.infer, "ticket-triage", **body)
        if not answer["degraded"]:
            sure.append(ticket)
        if len(sure) == TICKETS:
            break
    return sure


def _kinds(rate: float, tickets: list[dict[str, str]]) -> list[Kind]:
    def triage(number: int) -> dict[str, object]:
        return {"input": {"text": tickets[number % len(tickets)]["text"]}, **_subject(number)}

    def similar(number: int) -> dict[str, object]:
        return {"entity_key": tickets[number % len(tickets)]["id"], **_subject(number)}

    def feedback(number: int) -> dict[str, object]:
        return {"kind": ("accepted", "thumbs_up", "dismissed")[number % 3]}

    path = "/v1/features/{}/infer"
    return [
        Kind("triage", 16 * rate, 2.0, path.format("ticket-triage"), triage),
        Kind("similar", 16 * rate, 0.5, path.format("similar-tickets"), similar),
        Kind("summary", 0.2 * rate, 5.0, path.format("ticket-summary"), triage),
        Kind("feedback", 5 * rate, 2.0, "/v1/feedback", feedback),
    ]


def _subject(number: int) -> dict[str, object]:
    return {"subject": {"id": f"customer-{number % 997}"}}


if __name__ == "__main__":
    typer.run(main)
