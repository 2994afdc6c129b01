"""Whether the edge cases that are found are those that were planted: banking77 through the real edge model.

Of the messages of some intents most are put right by their users, of all others a few at random. The planted
intents must come first, each in a group of its own. Needs a running edge model, such as `trivium up` starts.
"""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import aiohttp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from trivium.datasets import read_records
from trivium.edge import EdgeClient
from trivium.edge_cases.finding import find
from trivium.settings import StoreSettings
from trivium.store.edge_cases import Answer

console = Console()
PLANTED = ("card_swallowed", "exchange_rate", "pending_top_up", "wrong_amount_of_cash_received")
NOISE, WRONG = 0.03, 0.8


def main(
    data: Annotated[Path, typer.Option(help="banking77's training file.")],
    sizes: Annotated[str, typer.Option(help="Inferences, one run each.")] = "1000,5000,10000",
    model: Annotated[str, typer.Option()] = "ticket-triage/2",
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Prints for each size what was found of what was planted, and the seconds that it took."""
    records = [(str(r["text"]), str(r["category"])) for r in read_records(data, ("text", "category"))]
    random.Random(seed).shuffle(records)
    vectors = asyncio.run(_embedded([text for text, _ in records], model))
    table = Table("inferences", "wrong", "planted in the first four", "purity", "recall", "seconds")
    for size in (int(one) for one in sizes.split(",")):
        table.add_row(*_run(records[:size], vectors[:size], seed))
    console.print(table)


def _run(records: list[tuple[str, str]], vectors: np.ndarray, seed: int) -> list[str]:
    rng = random.Random(seed)
    answers, intents = [], {}
    for place, (text, intent) in enumerate(records):
        wrong = rng.random() < (WRONG if intent in PLANTED else NOISE)
        right = {"label": intent} if wrong else None
        subject = f"u-{place % (len(records) // 3)}"
        about = (f"i-{place}", {"text": text}, {"label": "other"}, subject, "edge-v1", 0.9, None, True)
        answers.append(Answer(*about, wrong, right))
        intents[text] = intent
    begun = time.perf_counter()
    found = find(answers, vectors, unsure=0.5, top=len(PLANTED))
    seconds = time.perf_counter() - begun
    first, purities, recalls = 0, [], []
    for one in found:
        correction = one.correction or ""
        planted = [name for name in PLANTED if f"should be {name}:" in correction]
        first += bool(planted)
        if planted:
            put_right = [a for a in answers if a.overridden and intents[str(a.input["text"])] == planted[0]]
            count = int(correction.rpartition(": ")[2].partition(" of ")[0])
            purities.append(count / one.wrong)
            recalls.append(count / len(put_right))
    wrong_ones = Counter(answer.overridden for answer in answers)[True]
    return [
        f"{len(records):,}",
        f"{wrong_ones:,}",
        f"{first} of {len(PLANTED)}",
        f"{np.mean(purities):.2f}" if purities else "-",
        f"{np.mean(recalls):.2f}" if recalls else "-",
        f"{seconds:.1f}",
    ]


async def _embedded(texts: list[str], model: str) -> np.ndarray:
    settings = StoreSettings()
    key = os.environ.get("TRIVIUM_SERVICE_KEY") or settings.service_key.get_secret_value()
    async with aiohttp.ClientSession() as session:
        edge = EdgeClient(settings.resolved_edge_url, key, session)
        with console.status(f"embedding {len(texts):,} texts"):
            return np.asarray(await edge.embed(model, texts), dtype=np.float32)


if __name__ == "__main__":
    typer.run(main)
