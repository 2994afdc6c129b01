"""Which version of a variant has passed its evaluation: a file in the feature's folder, reviewed as code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from trivium.errors import ConfigurationError, ManifestError
from trivium.features import Catalogue, Feature

log = structlog.get_logger()
FILE = "promoted.json"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version that may be served beyond `staging`, and the evaluation that says so."""

    variant: str
    version: str
    evaluation: dict[str, Any]
    promoted_at: str
    by: str
    reason: str


def promotions_of(folder: Path) -> dict[str, Promotion]:
    """The promoted version of each variant of a feature; empty without a file.

    Raises:
        ManifestError: the file is not what `trivium variant promote` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: Promotion(variant=name, **values) for name, values in found.items()}
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}:1: not as `trivium variant promote` writes it: {error}") from error


def unpromoted(feature: Feature) -> str | None:
    """What is missing for the served version to be served beyond `staging`; None if nothing is."""
    served = feature.variants[feature.manifest.serve]
    promoted = promotions_of(feature.folder).get(served.name)
    if promoted is not None and promoted.version == served.version:
        return None
    stood = f"; {promoted.version} was promoted" if promoted else ""
    return (
        f"{feature.name} serves {served.name} {served.version}, which has not been promoted{stood}: run "
        f"`trivium eval {feature.name} --variant {served.name}` and then "
        f"`trivium variant promote {feature.name} {served.name}`"
    )


def check_promoted(catalogue: Catalogue, environment: str) -> None:
    """Refuses in production what has not been promoted; in other environments it is said.

    Raises:
        ConfigurationError: with a line for every feature that serves such a version.
    """
    missing = [told for feature in catalogue if (told := unpromoted(feature))]
    if missing and environment == "production":
        raise ConfigurationError("\n".join(missing))
    for told in missing:
        log.info("not_promoted", detail=told)
