"""The artefact as the server runs it: loaded by the server's own code, one message a run."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_model.artefacts import Artefact
from edge_model.card import ARTEFACTS, Card
from edge_model.runtime import Model, Outputs
from edge_model.training.metrics import Floats

ROUNDS = 3
SHORTEST = 2
"""Tokens of an empty text: the two that stand around every text."""


class Timing(NamedTuple):
    """Milliseconds of single runs, tokenising included."""

    p50_ms: float
    p99_ms: float


def load(folder: Path, graph: str, labels: list[str], max_tokens: int, hidden_size: int) -> Model:
    """Loads and warms the file `graph` in `folder`, one thread a run, before there is a card.

    Raises:
        ConfigurationError: it does not load, or its outputs are not what a server expects.
    """
    known: dict[str, Any] = {"name": folder.name, "version": graph, "labels": labels}
    card = Card.model_construct(**known, max_tokens=max_tokens, hidden_size=hidden_size)
    files = {
        name: (folder / path).read_bytes()
        for name, path in zip(ARTEFACTS, (graph, "tokenizer.json"), strict=True)
    }
    model = Model(Artefact(str(folder), card, files), threads_per_run=1)
    for width in (SHORTEST, max_tokens):
        model.check_canary(width)
    return model


def answers(model: Model, texts: list[str]) -> Outputs:
    """Runs the texts one by one: the scale of int8 activations depends on what shares a run."""
    return Outputs.joined([model.run([row]) for row in model.encode(texts)])


def time_runs(model: Model, texts: list[str], rounds: int = ROUNDS) -> Timing:
    """Times every text as a run of its own; the best of the rounds, since neighbours only add."""
    best = Timing(float("inf"), float("inf"))
    for _ in range(rounds):
        took: list[float] = []
        for text in texts:
            started = time.perf_counter()
            model.run(model.encode([text]))
            took.append((time.perf_counter() - started) * 1000)
        found = Timing(float(np.percentile(took, 50)), float(np.percentile(took, 99)))
        best = min(best, found, key=lambda timing: timing.p99_ms)
    return best


def total_variation(left: Floats, right: Floats) -> float:
    """Mean distance of two sets of distributions [n, labels]: 0 the same, 1 disjoint."""
    return float(np.abs(left - right).sum(axis=1).mean() / 2)
