"""Loading features: the manifest, and the files that it names, as one checked whole."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import structlog

from trivium.domain.fallback import fill_static
from trivium.domain.manifest import (
    ApiVariant,
    Manifest,
    PrecomputedVariant,
    Variant,
    check_schema,
    parse_manifest,
    variant_version,
)
from trivium.errors import FieldFault, InvalidInput, ManifestError, NotFound, SchemaViolation

log = structlog.get_logger()
MANIFEST = "feature.yaml"


@dataclass(frozen=True, slots=True)
class LoadedVariant:
    """A variant with the text of what it names; `version` is the hash of all of it."""

    name: str
    version: str
    spec: Variant
    prompt: str | None = None
    response_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """A checked feature."""

    manifest: Manifest
    folder: Path
    variants: dict[str, LoadedVariant]
    input_validator: jsonschema_rs.Validator
    output_validator: jsonschema_rs.Validator

    @property
    def name(self) -> str:
        """The feature's name, which is its folder's."""
        return self.manifest.feature

    @property
    def precomputed(self) -> list[LoadedVariant]:
        """The variants that the worker fills."""
        return [v for v in self.variants.values() if isinstance(v.spec, PrecomputedVariant)]

    def check_input(self, given: dict[str, Any]) -> None:
        """Raises InvalidInput with a fault for every field."""
        faults = tuple(_faults("input", self.input_validator, given))
        if faults:
            raise InvalidInput(_told(faults), errors=faults)

    def check_output(self, output: dict[str, Any]) -> None:
        """Raises SchemaViolation with a fault for every field."""
        faults = tuple(_faults("output", self.output_validator, output))
        if faults:
            raise SchemaViolation(_told(faults), errors=faults)


class Catalogue:
    """All features by name."""

    def __init__(self, features: dict[str, Feature]) -> None:
        self._features = features

    def __iter__(self) -> Iterator[Feature]:
        return iter(self._features.values())

    def get(self, name: str) -> Feature:
        """The feature, or NotFound with the names that there are."""
        try:
            return self._features[name]
        except KeyError:
            known = ", ".join(self._features) or "none"
            raise NotFound(f"There is no feature {name!r}; there are: {known}") from None


def load_catalogue(folder: Path) -> Catalogue:
    """Loads every `<name>/feature.yaml` below a folder.

    Raises:
        ManifestError: with a line for every fault of every manifest.
    """
    sources = sorted(folder.glob(f"*/{MANIFEST}"))
    if not sources:
        raise ManifestError(f"{folder}:1: no <feature>/{MANIFEST} below it (TRIVIUM_FEATURES_DIR)")
    features: dict[str, Feature] = {}
    faults: list[str] = []
    for source in sources:
        try:
            feature = load_feature(source)
        except ManifestError as error:
            faults.append(error.detail)
        else:
            features[feature.name] = feature
    if faults:
        raise ManifestError("\n".join(faults))
    return Catalogue(features)


def find_feature(folder: Path, name: str) -> Feature:
    """Loads one feature by its name; raises NotFound with the names that there are."""
    sources = {source.parent.name: source for source in sorted(folder.glob(f"*/{MANIFEST}"))}
    if name not in sources:
        raise NotFound(f"There is no feature {name!r} in {folder}; there are: {', '.join(sources) or 'none'}")
    return load_feature(sources[name])


def load_feature(source: Path) -> Feature:
    """Loads one manifest and what it names; raises ManifestError with a line for every fault."""
    text = source.read_text(encoding="utf-8")
    manifest = parse_manifest(text, str(source))
    faults: list[str] = []

    def fault(key: str, message: str) -> None:
        faults.append(f"{source}:{_line_of(text, key)}: {key}: {message}")

    if manifest.feature != source.parent.name:
        fault("feature", f"{manifest.feature!r} stands in the folder {source.parent.name!r}")
    variants = {
        name: _load_variant(name, spec, manifest, source.parent, fault)
        for name, spec in manifest.variants.items()
    }
    feature = Feature(
        manifest,
        source.parent,
        variants,
        jsonschema_rs.validator_for(manifest.input),
        jsonschema_rs.validator_for(manifest.output),
    )
    if not (source.parent / manifest.evaluation.dataset).is_file():
        fault("dataset", f"{source.parent / manifest.evaluation.dataset} is not there")
    for found in _faults("example.input", feature.input_validator, manifest.example.input):
        fault("example", f"{found.field}: {found.message}")
    static = fill_static(manifest.static, manifest.example.input)
    for found in _faults("static", feature.output_validator, static):
        fault("static", f"does not match output: {found.field}: {found.message}")
    if isinstance(manifest.variants[manifest.serve], PrecomputedVariant) and not manifest.example.entity_key:
        fault("example", "needs an entity_key, because a precomputed variant is served")
    if faults:
        raise ManifestError("\n".join(faults))
    return feature


def _load_variant(
    name: str, spec: Variant, manifest: Manifest, folder: Path, fault: Callable[[str, str], None]
) -> LoadedVariant:
    content: dict[str, Any] = {"variant": spec.model_dump(mode="json"), "output": manifest.output}
    prompt = None
    schema = None
    if isinstance(spec, ApiVariant):
        prompt = _read(folder / spec.prompt, "prompt", fault)
        schema = manifest.output
        if spec.response_schema:
            schema = _read_schema(folder / spec.response_schema, fault)
        content |= {"prompt": prompt, "response_schema": schema}
    if isinstance(spec, PrecomputedVariant) and spec.source and not (folder / spec.source).is_file():
        fault("source", f"{folder / spec.source} is not there")
    return LoadedVariant(name, variant_version(content), spec, prompt, schema)


def _read(path: Path, key: str, fault: Callable[[str, str], None]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fault(key, f"{path} cannot be read: {error}")
        return ""


def _read_schema(path: Path, fault: Callable[[str, str], None]) -> dict[str, Any]:
    try:
        schema = json.loads(_read(path, "response_schema", fault) or "{}")
    except json.JSONDecodeError as error:
        fault("response_schema", f"{path}:{error.lineno}: not JSON: {error.msg}")
        return {}
    if not isinstance(schema, dict):
        fault("response_schema", f"{path} is not an object")
        return {}
    if found := check_schema(schema):
        fault("response_schema", f"{path}: {found}")
    return schema


def _faults(root: str, validator: jsonschema_rs.Validator, given: Any) -> Iterator[FieldFault]:
    for error in validator.iter_errors(given):
        path = ".".join([root, *map(str, error.instance_path)])
        yield FieldFault(path, error.message[:500], error.instance)


def _told(faults: Iterable[FieldFault]) -> str:
    return "; ".join(f"{fault.field}: {fault.message}" for fault in faults)


def _line_of(text: str, key: str) -> int:
    """The first line that has the key; 1 if none has."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip(" -{").startswith(f"{key}:") or f"{{{key}:" in line or f" {key}:" in line:
            return number
    return 1
