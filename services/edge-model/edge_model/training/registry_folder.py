"""The model registry as a folder: the next version, and a version that appears whole or not at all."""

import contextlib
import os
import shutil
from pathlib import Path

from edge_model.card import ARTEFACTS, Card, write_card
from trivium.errors import Conflict


def next_version(models: Path, name: str) -> str:
    """One more than the highest numbered version, "1" if there is none."""
    folder = models / name
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return str(max(numbers, default=0) + 1)


def refuse_taken(models: Path, name: str, version: str) -> None:
    """Raises Conflict if the version exists: versions never change."""
    if (models / name / version).exists():
        raise Conflict(f"{models / name / version} exists; versions never change, choose another --version")


def publish(made: Path, card: Card, models: Path) -> Path:
    """Copies the artefact in `made` into the registry and returns its folder there.

    The files are complete and on disk before one rename makes them visible. Until then they lie one
    level above where a registry looks for cards, so what a kill leaves is never loaded.

    Raises:
        Conflict: the version has come into being meanwhile.
    """
    target = models / card.name / card.version
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = models / f".{card.name}-{card.version}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name in ARTEFACTS:
            shutil.copyfile(made / name, partial / name)
        write_card(partial, card)
        for path in (*partial.iterdir(), partial):
            _sync(path)
        refuse_taken(models, card.name, card.version)
        partial.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
