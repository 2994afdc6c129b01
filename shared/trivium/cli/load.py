"""`trivium load`: how a server does at the rate that it is asked at."""

import asyncio
import resource
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trivium.errors import TriviumError
from trivium.load import (
    Arrivals,
    Goal,
    Monitor,
    Plan,
    Report,
    Search,
    Shape,
    StageResult,
    check_target,
    run,
    run_stage,
    sweep,
    write_report,
)
from trivium.load.display import Display, table
from trivium.load.options import Options, make_target
from trivium.load.report import check_can_plot

WARM_UP_S = 3.0
SPARE_FILES = 256


def load(
    url: Annotated[str, typer.Option(help="The endpoint; with --model, the server.")],
    model: Annotated[str | None, typer.Option(help="Open Inference model: name or name/version.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1e5, help="One stage at it; else a sweep.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each measured stage.")] = 15.0,
    step_seconds: Annotated[float, typer.Option(min=0.5, help="Of a sweep's searching stages.")] = 5.0,
    start_rate: Annotated[float, typer.Option(min=0.1, max=1e5, help="Where a sweep starts.")] = 50.0,
    min_rate: Annotated[float | None, typer.Option(min=0.1, help="Exit 1 with a knee below.")] = None,
    p99_ms: Annotated[float, typer.Option(min=0.1, help="Target for the P99 of what is answered.")] = 100.0,
    deadline_ms: Annotated[float | None, typer.Option(min=1, help="Sent along; default --p99-ms.")] = None,
    timeout_ms: Annotated[float, typer.Option(min=10, help="After it, the client gives up.")] = 2000.0,
    arrivals: Annotated[Arrivals, typer.Option(help="Gaps between requests.")] = Arrivals.POISSON,
    seed: Annotated[int, typer.Option(help="Of the arrivals and the order of the texts.")] = 0,
    connections: Annotated[int, typer.Option(min=1, help="Most that are open at once.")] = 2000,
    shape: Annotated[Shape | None, typer.Option(help="Of the body; by default told by the URL.")] = None,
    body: Annotated[Path | None, typer.Option(help='JSON template with "{text}" in a string.')] = None,
    data: Annotated[Path | None, typer.Option(help="CSV or JSONL of texts; default the archive.")] = None,
    text_field: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    header: Annotated[list[str] | None, typer.Option(help="'Name: value', repeatable.")] = None,
    key: Annotated[str | None, typer.Option(help="Or TRIVIUM_SERVICE_KEY, TRIVIUM_API_KEY.")] = None,
    allow_degraded: Annotated[bool, typer.Option(help="A feature's fallback answer is good.")] = False,
    ready_url: Annotated[str | None, typer.Option(help="Readiness; by default beside the API.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("load-results"),
    plot: Annotated[bool, typer.Option(help="Draw latency by rate as PNG and HTML.")] = True,
) -> None:
    """Sends requests on a schedule that waits for no answer, and finds the rate that holds the P99 target.

    Exits 1 when the target is missed, 2 when an option is wrong or the server cannot be reached.
    """
    deadline_ms = deadline_ms or p99_ms
    headers = tuple(header or ())
    options = Options(
        *(url, model, shape, body, data, text_field, headers, key, deadline_ms, ready_url, seed),
        allow_degraded=allow_degraded,
    )
    plan = Plan(arrivals, seed, connections, timeout_ms)
    warm_up = min(WARM_UP_S, step_seconds)
    search = Search(start_rate, step_seconds=step_seconds, confirm_seconds=seconds, warm_up_seconds=warm_up)
    console = Console(stderr=True, soft_wrap=True)
    try:
        if plot:
            check_can_plot()
        _allow_files(connections + SPARE_FILES)
        load_test = _LoadTest(Report(make_target(options), Goal(p99_ms), plan), console)
        try:
            code = run(load_test.stage(rate, seconds) if rate else load_test.sweep(search, min_rate))
        finally:
            load_test.finish(out, plot)
    except TriviumError as error:
        console.print(error.detail, style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    raise typer.Exit(code)


class _LoadTest:
    """One run: its report, what is shown of it, and its exit code."""

    def __init__(self, report: Report, console: Console) -> None:
        self._report, self._console = report, console
        self._display = Display(console, report.goal)
        self._monitor = Monitor(self._display.progress, self._keep)
        self._signal = 0

    async def stage(self, rate: float, seconds: float) -> int:
        """Warms up and measures one rate."""
        await self._begin()
        report = self._report
        await run_stage(
            report.target, rate / 2, min(WARM_UP_S, seconds), report.plan, self._monitor, "warm-up"
        )
        if self._signal:
            return self._code(missed=True)
        stage = await run_stage(report.target, rate, seconds, report.plan, self._monitor)
        misses = stage.misses(report.goal)
        report.verdict = f"Missed at {rate:g}/s: {', '.join(misses)}." if misses else f"Held at {rate:g}/s."
        return self._code(missed=bool(misses))

    async def sweep(self, search: Search, min_rate: float | None) -> int:
        """Looks for the knee and measures around it."""
        await self._begin()
        report = self._report
        report.search = search
        report.knee, _ = await sweep(report.target, report.goal, search, report.plan, self._monitor)
        rate = report.knee.rate
        told = f"Knee at {rate:.1f}/s" if rate else "No rate held"
        below = min_rate is not None and rate is not None and rate < min_rate
        too_low = f", below the {min_rate:g}/s asked for" if below else ""
        report.verdict = f"{told}{too_low} (limited by: {report.knee.limited_by})."
        return self._code(missed=rate is None or below)

    def finish(self, out: Path, plot: bool) -> None:
        """Prints the table and writes the files, of whatever was measured."""
        self._display.close()
        if not self._report.stages:
            return
        Console(width=None if self._console.is_terminal else 200).print(
            table(self._report.stages, self._report.goal)
        )
        typer.echo(self._report.verdict)
        for path in write_report(self._report, out, plot=plot):
            typer.echo(f"wrote {path}")

    async def _begin(self) -> None:
        self._report.target = await check_target(self._report.target)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        """The first signal ends the run in order; a second one, at once."""
        self._signal = number
        self._report.verdict = "Interrupted."
        self._monitor.stop.set()
        asyncio.get_running_loop().remove_signal_handler(number)

    def _keep(self, stage: StageResult) -> None:
        self._report.stages.append(stage)
        self._display.stage(stage)

    def _code(self, *, missed: bool) -> int:
        if self._signal:
            self._report.verdict = "Interrupted."
            return 128 + self._signal
        return int(missed)


def _allow_files(wanted: int) -> None:
    """Each connection is an open file; the soft limit is raised as far as the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
