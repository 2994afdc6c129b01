"""Evaluators of one's own: a class of a file in the feature's folder, or of an installed package."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from trivium.errors import ConfigurationError
from trivium.evals.evaluators.base import Scorer
from trivium.features import Feature


def find_own(feature: Feature, name: str, where: str, built_in: Iterable[str]) -> type[Scorer]:
    """The class behind `evals/mine.py:Mine` or `package.module.Mine`.

    Raises:
        ConfigurationError: it is not there, or is no evaluator; `where` begins the message.
    """
    source, attribute = split(name)
    if name.endswith(".py"):
        raise ConfigurationError(f"{where}: name the class, too: {name}:Mine")
    if not source or not attribute:
        there = ", ".join(built_in)
        raise ConfigurationError(
            f"{where}: there is no such evaluator; there are {there}, or a path of your own"
        )
    try:
        module = _load(feature.folder / source) if source.endswith(".py") else importlib.import_module(source)
        kind = getattr(module, attribute)
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Scorer)):
        raise ConfigurationError(f"{where}: is no trivium.evals.evaluators.Scorer")
    return kind


def split(name: str) -> tuple[str, str]:
    """Where a class is, and what it is called; empty where the name does not say."""
    if ":" in name:
        source, _, attribute = name.partition(":")
        return source, attribute
    source, _, attribute = name.rpartition(".")
    return source.lstrip("."), attribute


def source_of(kind: type[Scorer]) -> bytes:
    """The file that a class is written in; empty if it has none."""
    try:
        return Path(inspect.getfile(kind)).read_bytes()
    except (TypeError, OSError):
        return b""


def _load(path: Path) -> ModuleType:
    name = f"trivium_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, and the hints of their fields, look their module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
