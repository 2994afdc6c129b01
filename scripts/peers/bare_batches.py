"""Rows a second of the bare model in batches: `python bare_batches.py <models> <texts.jsonl>`.

The best that this CPU does with this model: texts sorted by length, batches of eight, a thread a CPU, the
tokeniser included, no service around it. Prints the figure.
"""

import json
import sys
import threading
import time
from pathlib import Path

from edge_model.artefacts import Source
from edge_model.cpus import granted_cpus
from edge_model.runtime import Model

BATCH = 8


def main(models: str, texts: str) -> None:
    """Runs over all texts once, after a warm-up."""
    source = Source(models)
    model = Model(source.fetch(source.list()[-1]))
    lines = [json.loads(line)["text"] for line in Path(texts).read_text().splitlines()]
    for _ in range(20):
        model.run(model.encode(lines[:BATCH]))
    started = time.perf_counter()
    rows = [row for at in range(0, len(lines), 512) for row in model.encode(lines[at : at + 512])]
    rows.sort(key=lambda row: len(row.ids))
    batches = iter([rows[at : at + BATCH] for at in range(0, len(rows), BATCH)])
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            model.run(batch)

    workers = [threading.Thread(target=work) for _ in range(granted_cpus())]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(len(lines) / (time.perf_counter() - started))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
