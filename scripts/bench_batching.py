"""`make bench-batching`: what batching gains on this CPU, and what it does to the answers."""

import os
import statistics
import threading
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edge_model.artefacts import Source
from edge_model.cpus import granted_cpus
from edge_model.runtime import Model, Row
from trivium.datasets import read_records

ROOT = Path(__file__).parents[1]
ROUNDS = 5
RUNS = 40
console = Console(width=120)


def rows_per_s(model: Model, width: int, rows: int, threads: int) -> float:
    """Rows a second when every thread runs batches of one shape."""
    batch = model.probe(width, rows)
    runs = max(4, RUNS // rows)

    def work() -> None:
        for _ in range(runs):
            model.run(batch)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * runs * rows / (time.perf_counter() - started)


def gains(model: Model, threads: int) -> Table:
    """Rows a second in batches, as a ratio to one by one in the same round; medians of five rounds."""
    sizes = (2, 4, 8)
    table = Table("tokens", *(f"batch of {rows}" for rows in sizes), title="throughput against one by one")
    for width in (8, 16, 24, 32, 48, 64):
        ratios: dict[int, list[float]] = {rows: [] for rows in sizes}
        for _ in range(ROUNDS):
            alone = rows_per_s(model, width, 1, threads)
            for rows in sizes:
                ratios[rows].append(rows_per_s(model, width, rows, threads) / alone)
        table.add_row(str(width), *(f"{statistics.median(ratios[rows]):.2f}" for rows in sizes))
    return table


def effects(model: Model, texts: list[str]) -> Table:
    """Each text alone, and among seven of like length: int8 activations are scaled over the batch."""
    rows: list[Row] = sorted(model.encode(texts), key=lambda row: len(row.ids))
    alone = [model.run([row]) for row in rows]
    flips = 0
    moved: list[float] = []
    for start in range(0, len(rows), 8):
        together = model.run(rows[start : start + 8])
        for offset, before in enumerate(alone[start : start + 8]):
            flips += int(before.probabilities[0].argmax() != together.probabilities[offset].argmax())
            moved.append(abs(float(before.probabilities.max() - together.probabilities[offset].max())))
    table = Table("texts", "another label", "confidence moved, P50", "P99", title="alone or in a batch of 8")
    p50, p99 = np.percentile(moved, [50, 99])
    table.add_row(str(len(rows)), f"{flips} ({flips / len(rows):.2%})", f"{p50:.4f}", f"{p99:.4f}")
    return table


def main(
    data: Annotated[Path, typer.Option(help="CSV or JSONL of texts.")] = ROOT
    / "features/similar-tickets/archive.jsonl",
    text_field: Annotated[str, typer.Option()] = "text",
) -> None:
    """Prints both tables for the shipped model."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    source = Source(str(ROOT / "models"))
    model = Model(source.fetch(source.list()[-1]))
    texts = [str(record[text_field]) for record in read_records(data, (text_field,))]
    console.print(gains(model, granted_cpus()))
    console.print(effects(model, texts))


if __name__ == "__main__":
    typer.run(main)
