"""The figures of an artefact: the served graph on held-out messages, next to the network it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_model import card
from edge_model.runtime import Model, Outputs
from edge_model.training import metrics, served
from edge_model.training.build import FLOAT
from edge_model.training.head import Head
from edge_model.training.job import Job, Trained, texts_of
from edge_model.training.metrics import Bin, Floats, Ints
from edge_model.training.scope import KEPT

PRECISION = 0.98
PLOTTED_BINS = 5
"""Fewer than for the calibration error, for what is seldom must be legible too."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The sections of the card that hold figures, and what the reliability plot shows."""

    metrics: dict[str, float]
    calibration: card.Calibration
    scope: card.Scope
    bins: list[Bin]


def measure(trained: Trained, trained_logits: Floats, head: Head, folder: Path, job: Job) -> Measured:
    """Measures the artefact in `folder`.

    Args:
        trained: the network, for its labels and its split.
        trained_logits: what the network in torch says of the held-out messages, [n, labels].
        head: of both graphs in `folder`.
        folder: where `model.onnx`, `float.onnx` and `tokenizer.json` are.
        job: for the texts out of scope.
    """
    texts, targets = texts_of(trained.split.held_out), trained.targets(trained.split.held_out)
    hidden = len(head.scope.distance.projection)

    def load(graph: str) -> Model:
        return served.load(folder, graph, trained.labels, job.recipe.max_tokens, hidden)

    full = served.answers(load(FLOAT), texts)
    model = load("model.onnx")
    small = served.answers(model, texts)
    expected = metrics.softmax(trained_logits / np.float32(head.temperature))
    timing = served.time_runs(model, texts)
    calibration = _calibration(trained, head, model, small.probabilities, targets)
    figures = {
        "accuracy": metrics.accuracy(small.probabilities, targets),
        "macro_f1": metrics.macro_f1(small.probabilities, targets),
        "balanced_accuracy": metrics.balanced_accuracy(small.probabilities, targets),
        "accuracy_fp32": metrics.accuracy(full.probabilities, targets),
        "int8_loss": metrics.accuracy(full.probabilities, targets)
        - metrics.accuracy(small.probabilities, targets),
        "export_gap": float(np.abs(full.probabilities - expected).max()),
        "served_gap": served.total_variation(small.probabilities, expected),
        "served_agreement": float((small.probabilities.argmax(1) == expected.argmax(1)).mean()),
        "ece": calibration.ece,
        "p50_ms": timing.p50_ms,
        "p99_ms": timing.p99_ms,
    }
    return Measured(
        {name: round(value, 5) for name, value in figures.items()},
        calibration,
        _scope(head, model, small, job),
        metrics.reliability(small.probabilities, targets, PLOTTED_BINS),
    )


def _calibration(
    trained: Trained, head: Head, model: Model, probabilities: Floats, targets: Ints
) -> card.Calibration:
    validation = trained.split.validation
    answers = served.answers(model, texts_of(validation))
    confidence = metrics.confidence_for(answers.probabilities, trained.targets(validation), PRECISION)
    found = metrics.coverage(probabilities, targets, confidence)
    return card.Calibration(
        temperature=round(head.temperature, 4),
        ece=round(metrics.expected_calibration_error(probabilities, targets), 5),
        confidence_at_98_precision=round(confidence, 4),
        coverage_at_98_precision=round(found.share, 4),
        precision_there=round(found.precision, 4),
    )


def _scope(head: Head, model: Model, inside: Outputs, job: Job) -> card.Scope:
    def separation(texts: list[str]) -> card.Separation | None:
        if not texts:
            return None
        outside = served.answers(model, texts)
        scores: dict[str, Callable[[Floats], Floats]] = {
            "mahalanobis": lambda rows: -head.scope.distance.of(rows),
            "energy": lambda rows: metrics.energy(head.logits(rows)),
            "softmax": lambda rows: metrics.softmax(head.logits(rows)).max(axis=1),
        }
        found = {
            name: round(metrics.auroc(of(inside.embedding), of(outside.embedding)), 4)
            for name, of in scores.items()
        }
        refused = float((outside.in_scope < 0.5).mean())
        return card.Separation(examples=len(texts), refused=round(refused, 4), **found)

    return card.Scope(
        threshold=0.5,
        distance_at_threshold=round(head.scope.middle, 4),
        slope=round(head.scope.slope, 4),
        target_kept=KEPT,
        kept=round(float((inside.in_scope >= 0.5).mean()), 4),
        far=separation(job.far),
        near=separation(job.near),
    )
