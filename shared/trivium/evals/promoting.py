"""A promotion: what is missing for it, and how it is written into the feature's folder."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from trivium.errors import ConfigurationError, ManifestError
from trivium.evals.cases import load_cases
from trivium.evals.evaluators import evaluators_sha256, make_evaluators
from trivium.features import MANIFEST, Feature, load_feature
from trivium.promotions import FILE

_SERVE = re.compile(r"^serve:[^\n#]*", re.MULTILINE)
_FALLBACK = re.compile(r"^fallback:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


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
    elif row["evaluators_sha256"] != evaluators_sha256(feature, make_evaluators(feature, None)):
        found.append(f"the evaluators or gates have changed since its evaluation: run {command}")
    if not row["gates"]:
        found.append("the manifest's evaluation has no gates; name at least one metric that must be reached")
    for gate in row["gates"]:
        if not gate["passed"]:
            wanted = " ".join(f"{k} {gate[k]}" for k in ("min", "max") if gate[k] is not None)
            found.append(f"{gate['metric']} is {gate['estimate']['value']:.4f}; the gate is {wanted}")
    return found


def promote(feature: Feature, variant: str, row: dict[str, Any], *, by: str, reason: str) -> None:
    """Writes the promotion, and serves the variant; on any fault neither file is changed.

    The variant that was served before becomes the first fallback, unless it stands there.

    Raises:
        ConfigurationError: the manifest cannot be changed by machine.
    """
    manifest, promoted = feature.folder / MANIFEST, feature.folder / FILE
    before = manifest.read_text(encoding="utf-8")
    after = serving(before, feature, variant)
    if after != before:
        _replace(manifest, after)
        try:
            load_feature(manifest)
        except ManifestError as error:
            _replace(manifest, before)
            raise ConfigurationError(
                f"{manifest}: `serve: {variant}` would not load, so nothing was changed: {error.detail}"
            ) from error
    known = json.loads(promoted.read_text(encoding="utf-8")) if promoted.is_file() else {}
    known[variant] = {
        "version": row["version"],
        "evaluation": {
            "id": row["id"],
            "dataset": row["dataset"],
            "dataset_sha256": row["dataset_sha256"],
            "cases": row["cases"],
            "repeats": row["repeats"],
            "failures": row["failures"],
            "metrics": row["metrics"],
            "p50_ms": row["p50_ms"],
            "p99_ms": row["p99_ms"],
            "cost_usd": row["cost_usd"],
        },
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
    }
    _replace(promoted, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def serving(text: str, feature: Feature, variant: str) -> str:
    """A manifest's text with another variant served; all else, comments included, stays as it is.

    Raises:
        ConfigurationError: its lines `serve:` and `fallback:` are not at the beginning of a line.
    """
    served = feature.manifest.serve
    if served == variant:
        return text
    if not _SERVE.search(text) or not _FALLBACK.search(text):
        raise ConfigurationError(
            f"{feature.name}: serve and fallback are not lines of their own; change them by hand"
        )
    steps: list[Any] = [step for step in yaml.safe_load(text)["fallback"] if step != variant]
    if served not in steps:
        steps.insert(0, served)
    flow = yaml.safe_dump(steps, default_flow_style=True, sort_keys=False, width=10_000).strip()
    text = _SERVE.sub(lambda found: f"serve: {variant}" + " " * found.group().endswith(" "), text, count=1)
    return _FALLBACK.sub(lambda _: f"fallback: {flow}\n", text, count=1)


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
