"""Loading features: the manifest, and the files that it names, as one checked whole."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import structlog

from trivium.domain.fallback import fill_static
from trivium.domain.manifest import Manifest, check_schema, parse_manifest, validator_of, variant_version
from trivium.domain.recording import Keeping, Recording, Redactor
from trivium.domain.variants import HANDLING, OPERATION, ApiVariant, PrecomputedVariant, Variant
from trivium.errors import FieldFault, InvalidInput, ManifestError, NotFound, SchemaViolation
from trivium.located_yaml import Fault, load_located
from trivium.located_yaml import Path as Place

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
    keeping: Keeping

    @property
    def name(self) -> str:
        """The feature's name, which is its folder's."""
        return self.manifest.feature

    @property
    def precomputed(self) -> list[LoadedVariant]:
        """The variants that the worker fills."""
        return [v for v in self.variants.values() if isinstance(v.spec, PrecomputedVariant)]

    def record_of(self, given: dict[str, Any]) -> dict[str, Any]:
        """What of an input is an entity's record: the properties that its schema names."""
        properties = self.manifest.input.get("properties") or {}
        return {name: given[name] for name in properties if name in given}

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

    def keeping_of(self, name: str) -> Keeping:
        """What is recorded of a feature; of one that is not there any more, nothing."""
        feature = self._features.get(name)
        return feature.keeping if feature else Keeping(Recording(payload="none"))

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
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{source}:{line}: not UTF-8") from error
    manifest = parse_manifest(text, str(source))
    faults: list[Fault] = []
    variants: dict[str, LoadedVariant] = {}
    # Last those that are computed with others, whose versions are part of theirs.
    for name, spec in sorted(manifest.variants.items(), key=lambda item: item[1].pattern == "precomputed"):
        variants[name] = _load_variant(name, spec, manifest, source.parent, variants, faults)
    feature = Feature(
        manifest,
        source.parent,
        variants,
        validator_of(manifest.input),
        validator_of(manifest.output),
        Keeping(manifest.recording, Redactor(manifest.input), Redactor(manifest.output)),
    )
    faults += _check(feature)
    if faults:
        located = load_located(text)
        placed = sorted((located.line_of(path), ".".join(map(str, path)), told) for path, told in faults)
        raise ManifestError("\n".join(f"{source}:{line}: {path}: {told}" for line, path, told in placed))
    return feature


def _check(feature: Feature) -> Iterator[Fault]:
    """What a manifest alone does not show: its folder, its files, its example."""
    manifest, folder = feature.manifest, feature.folder
    if manifest.feature != folder.name:
        yield ("feature",), f"{manifest.feature!r} stands in the folder {folder.name!r}"
    if _leaves(folder, manifest.evaluation.dataset):
        yield ("evaluation", "dataset"), f"{manifest.evaluation.dataset} leads out of the feature's folder"
    elif not (folder / manifest.evaluation.dataset).is_file():
        yield ("evaluation", "dataset"), f"{folder / manifest.evaluation.dataset} is not there"
    for found in _faults("example.input", feature.input_validator, manifest.example.input):
        yield tuple(found.field.split(".")), found.message
    last = len(manifest.fallback) - 1
    static = fill_static(manifest.static, manifest.example.input)
    for found in _faults("output", feature.output_validator, static):
        yield ("fallback", last, "static"), f"does not match {found.field}: {found.message}"
    if isinstance(manifest.variants[manifest.serve], PrecomputedVariant) and not manifest.example.entity_key:
        yield ("example",), "needs an entity_key, because a precomputed variant is served"


def _load_variant(
    name: str,
    spec: Variant,
    manifest: Manifest,
    folder: Path,
    loaded: dict[str, LoadedVariant],
    faults: list[Fault],
) -> LoadedVariant:
    here = ("variants", name)
    # What a file says is content; where it lies is not, nor is when and how a result is made.
    operation = OPERATION if isinstance(spec, PrecomputedVariant) else ()
    left_out = {"prompt", "response_schema", *HANDLING, *operation}
    parameters = spec.model_dump(mode="json", exclude=left_out)
    content: dict[str, Any] = {"variant": parameters, "output": manifest.output}
    prompt = None
    schema = None
    if isinstance(spec, ApiVariant):
        prompt = _read(folder, spec.prompt, (*here, "prompt"), faults)
        schema = manifest.output
        if spec.response_schema:
            schema = _read_schema(folder, spec.response_schema, (*here, "response_schema"), faults)
        content |= {"prompt": prompt, "response_schema": schema}
    if isinstance(spec, PrecomputedVariant):
        inner = spec.compute.variants or ()
        content["computes_with"] = [loaded[n].version for n in inner if n in loaded]
        path = file_source(spec, folder)
        if path and _leaves(folder, str(spec.source)):
            faults.append(((*here, "source"), f"{spec.source} leads out of the feature's folder"))
        elif path and not path.is_file():
            faults.append(((*here, "source"), f"{path} is not there"))
    return LoadedVariant(name, variant_version(content), spec, prompt, schema)


def file_source(spec: PrecomputedVariant, folder: Path) -> Path | None:
    """The file that a variant's records come from; None if it is a URL, a query or nothing."""
    if not isinstance(spec.source, str) or "://" in spec.source:
        return None
    return folder / spec.source


def _leaves(folder: Path, named: str) -> bool:
    """Whether a path of a manifest leads out of the feature's folder, links followed."""
    try:
        return not (folder / named).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False  # told by who reads it


def _read(folder: Path, named: str, place: Place, faults: list[Fault]) -> str:
    path = folder / named
    if _leaves(folder, named):
        faults.append((place, f"{named} leads out of the feature's folder"))
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        faults.append((place, f"{path} cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        faults.append((place, f"{path} is not UTF-8 at byte {error.start}"))
    except ValueError:
        faults.append((place, "is not a path"))
    return ""


def _read_schema(folder: Path, named: str, place: Place, faults: list[Fault]) -> dict[str, Any]:
    known, path = len(faults), folder / named
    text = _read(folder, named, place, faults)
    if len(faults) > known:
        return {}
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        faults.append((place, f"{path}:{error.lineno}: not JSON: {error.msg}"))
        return {}
    if not isinstance(schema, dict):
        faults.append((place, f"{path} is not an object"))
        return {}
    if found := check_schema(schema):
        faults.append((place, f"{path}: {found}"))
    return schema


def _faults(root: str, validator: jsonschema_rs.Validator, given: Any) -> Iterator[FieldFault]:
    for error in validator.iter_errors(given):
        path = ".".join([root, *map(str, error.instance_path)])
        yield FieldFault(path, error.message[:500], error.instance)


def _told(faults: Iterable[FieldFault]) -> str:
    return "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
