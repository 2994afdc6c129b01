"""A promotion: what is missing for it, and how it is written into the feature's folder."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivium.errors import ConfigurationError, ManifestError
from trivium.evals.cases import load_cases
from trivium.evals.evaluators import evaluators_sha256, make_evaluators
from trivium.evals.manifest_text import serving
from trivium.features import MANIFEST, Feature, load_feature
from trivium.promotions import FILE, promotions_of


def missing_for(feature: Feature, variant: str, row: dict[str, Any] | None) -> list[str]:
    """What stands between a variant and its promotion, a line each; empty if nothing does.

    Args:
        feature: as it is now.
        variant: which of it.
        row: the newest evaluation of its present version, if there is one.
    """
    command = f"`trivium eval {feature.name} --variant {variant}`"
    if row is None:
        version = feature.variants[variant].version
        return [f"version {version} has not been evaluated: run {command}"]
    found = []
    if row["dataset_sha256"] != load_cases(feature).sha256:
        found.append(f"the dataset has changed since its evaluation: run {command}")
    if row["evaluators_sha256"] != evaluators_sha256(feature, make_evaluators(feature, None)):
        found.append(f"the evaluators or gates have changed since its evaluation: run {command}")
    if not row["gates"]:
        found.append("the manifest's evaluation has no gates; name at least one metric that must be reached")
    for gate in row["gates"]:
        if not gate["passed"]:
            wanted = " ".join(f"{k} {gate[k]}" for k in ("min", "max") if gate[k] is not None)
            found.append(f"{gate['metric']} is {gate['estimate']['value']:.4f}; the gate is {wanted}")
    if not found and not row["passed"]:
        found.append(f"evaluation {row['id']} did not pass: run {command}")
    return found


def promote(feature: Feature, variant: str, row: dict[str, Any], *, by: str, reason: str) -> None:
    """Writes the promotion, and serves the variant; on any fault neither file is changed.

    The variant that was served before becomes the first fallback.

    Raises:
        ConfigurationError: the manifest cannot be changed by machine. ManifestError: promoted.json is broken.
    """
    manifest, promoted = feature.folder / MANIFEST, feature.folder / FILE
    known = {name: asdict(one) for name, one in promotions_of(feature.folder).items()}
    known[variant] = _record(variant, row, by, reason)
    for one in known.values():
        del one["variant"]
    written = promoted.read_bytes() if promoted.is_file() else None
    was = manifest.read_bytes()
    now = serving(was.decode(), feature, variant).encode()
    if now != was:
        _try(feature, now, variant)
    try:
        # The record first: a promotion that is not served yet changes nothing.
        _replace(promoted, (json.dumps(known, indent=2, ensure_ascii=False) + "\n").encode())
        if now != was:
            _replace(manifest, now)
    except OSError:
        if written is None:
            promoted.unlink(missing_ok=True)
        else:
            promoted.write_bytes(written)
        raise


def _record(variant: str, row: dict[str, Any], by: str, reason: str) -> dict[str, Any]:
    figures = ("dataset", "dataset_sha256", "cases", "repeats", "failures", "metrics", "p50_ms", "p99_ms")
    return {
        "variant": variant,
        "version": row["version"],
        "evaluation": {"id": row["id"], **{name: row[name] for name in (*figures, "cost_usd")}},
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
    }


def _try(feature: Feature, text: bytes, variant: str) -> None:
    """Loads what would be written, beside what is there; raises ConfigurationError if it is not right."""
    manifest, chain = feature.folder / MANIFEST, feature.manifest.chain
    trial = manifest.with_suffix(".trial")
    try:
        trial.write_bytes(text)
        found = load_feature(trial).manifest.chain
    except ManifestError as error:
        told = error.detail.replace(str(trial), str(manifest))
        raise ConfigurationError(
            f"`serve: {variant}` would not load, so nothing was changed: {told}"
        ) from error
    finally:
        trial.unlink(missing_ok=True)
    if found != [variant, *(name for name in chain if name != variant)]:
        raise ConfigurationError(
            f"{manifest}: cannot be changed by machine, so nothing was; change it by hand"
        )


def _replace(path: Path, text: bytes) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
