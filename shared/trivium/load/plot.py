"""Latency by rate, as PNG and as a page that needs nothing else."""

import html
import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from trivium.load.report import Report
from trivium.load.result import StageResult
from trivium.load.table import COLUMNS, cells

LINES = (("P50", "p50_ms", "#2b8a3e"), ("P90", "p90_ms", "#e67700"), ("P99", "p99_ms", "#c92a2a"))
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
STYLE = """
body { color: #222; font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; white-space: normal }
svg { height: auto; max-width: 100% }
"""


def draw(report: Report, path: Path) -> None:
    """Writes the plot; the format is told by the ending."""
    _figure(report).savefig(path, dpi=130)


def page(report: Report) -> str:
    """The whole page: figures in a table, and the plot inline."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "trivium"}):
        _figure(report).savefig(stream, format="svg", metadata=NO_METADATA)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    title = f"Load test of {report.target.url}"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(stage, report.goal)) + "</tr>\n"
        for stage in report.stages
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>{html.escape(report.verdict)} Started {html.escape(report.started_at)}; "
        f"arrivals {report.plan.arrivals}, deadline {report.target.deadline_ms:g} ms.</p>\n"
        f"{svg}\n<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>\n</html>\n"
    )


def _figure(report: Report) -> Figure:
    stages = _latest_by_rate(report.stages)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    rates = [stage.offered_per_s for stage in stages]
    for name, key, colour in LINES:
        values = [max(0.01, getattr(stage.latency, key)) for stage in stages]
        axes.plot(rates, values, marker="o", markersize=4, color=colour, label=f"{name} latency")
    axes.axhline(
        report.goal.p99_ms, color="#c92a2a", linestyle=":", label=f"target {report.goal.p99_ms:g} ms"
    )
    if report.knee and report.knee.rate:
        axes.axvline(report.knee.rate, color="#555", linestyle="--", label=f"knee {report.knee.rate:.0f}/s")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_formatter(PLAIN)
    axes.set_xlabel("offered requests per second")
    axes.set_ylabel("latency from the intended send, ms")
    axes.grid(alpha=0.3, which="both")
    _add_goodput(axes, rates, stages)
    return figure


def _latest_by_rate(stages: list[StageResult]) -> list[StageResult]:
    """Ascending by rate, without the warm-up; of several at one rate the last, which is the longest."""
    answered = [stage for stage in stages if stage.latency]
    measured = [stage for stage in answered if stage.label != "warm-up"] or answered
    latest = {stage.offered_per_s: stage for stage in measured}
    return [latest[rate] for rate in sorted(latest)]


def _add_goodput(axes: Any, rates: list[float], stages: list[StageResult]) -> None:
    right = axes.twinx()
    goodput = [stage.goodput_per_s for stage in stages]
    right.plot(rates, goodput, color="#1864ab", marker="s", markersize=4, alpha=0.6, label="goodput")
    right.set_ylabel("goodput inside the deadline, requests per second")
    right.set_ylim(bottom=0)
    lines = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    axes.legend(lines, [line.get_label() for line in lines], loc="lower right", fontsize=8)
