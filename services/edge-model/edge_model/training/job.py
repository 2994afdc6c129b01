"""What is to be trained, and who is told how far it has come."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from edge_model.training.data import Example, Split
from edge_model.training.gates import Limits
from edge_model.training.metrics import Ints
from edge_model.training.network import TextClassifier
from edge_model.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, and where to put it; `far` and `near` are texts out of scope, only measured on."""

    name: str
    version: str
    models: Path
    credit: str
    seed: int
    reduce_range: bool
    recipe: Recipe = field(default_factory=Recipe)
    limits: Limits = field(default_factory=Limits)
    far: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)


class Watcher(Protocol):
    """Is told how far the work has come."""

    def begin(self, stage: str, steps: int | None) -> None:
        """A stage begins; None: its steps are not counted."""

    def step(self, loss: float) -> None:
        """A step was done."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted network, and what it was fitted to."""

    network: TextClassifier
    tokenizer: Tokenizer
    labels: list[str]
    split: Split
    seconds: float

    def targets(self, examples: list[Example]) -> Ints:
        """Positions of the examples' labels, int64 [n]."""
        index = {label: position for position, label in enumerate(self.labels)}
        return np.array([index[example.label] for example in examples], dtype=np.int64)


def texts_of(examples: list[Example]) -> list[str]:
    """The texts alone."""
    return [example.text for example in examples]
