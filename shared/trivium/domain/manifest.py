"""A feature's manifest: the format, and the checks that need nothing but its text."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema_rs
from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
)

from trivium.domain.recording import Recording
from trivium.domain.variants import ApiVariant, Cron, EdgeVariant, Name, PrecomputedVariant, Strict, Variant
from trivium.errors import ManifestError
from trivium.located_yaml import Fault, NotYaml, Path, load_located

Pattern = Literal["api", "precomputed", "edge", "static"]

_ANSWERED = {"problem": "Is.", "data": "Is.", "acceptable_error_rate": 0.5, "when_wrong": "Is."}
_UNANSWERED = re.compile(r"^\W*(tbd|todo|n/?a|none|unknown|\?+)?\W*$", re.IGNORECASE)


class Assessment(Strict):
    """The four questions; a manifest without their answers does not load."""

    problem: str = Field(description="What costs whom how much today?")
    data: str = Field(description="Which data shows right answers, how much, under which licence?")
    acceptable_error_rate: float = Field(gt=0, lt=1, description="Which share may be wrong?")
    when_wrong: str = Field(description="What does the user see and do when it is wrong?")

    @field_validator("problem", "data", "when_wrong")
    @classmethod
    def _answered(cls, value: str) -> str:
        if _UNANSWERED.match(value):
            raise ValueError("answer the question in a sentence")
        return value


class SuccessMetric(Strict):
    """What the product watches."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    direction: Literal["up", "down"]


class StaticStep(Strict):
    """The non-AI version: literal values, or what can be taken from the input.

    A value `{"$input": field, "take": "all" | "first_sentence"}` is replaced by that of the input.
    """

    static: dict[str, Any]


def _kind_of_step(value: Any) -> str:
    return "static" if isinstance(value, dict | StaticStep) else "variant"


FallbackStep = Annotated[
    Annotated[str, Tag("variant")] | Annotated[StaticStep, Tag("static")], Discriminator(_kind_of_step)
]


class RolloutGates(Strict):
    """Thresholds of the four metrics."""

    adoption_min: float = Field(0.15, ge=0, le=1)
    override_max: float = Field(0.40, ge=0, le=1)
    p99_ms_max: float = Field(4000, gt=0)
    error_rate_max: float = Field(0.02, ge=0, le=1)


class Cohort(Strict):
    """Subjects that have opted in: those with one of the values of a property."""

    property: str = Field(min_length=1, description="Of the subject's properties.")
    values: list[str] = Field(min_length=1)


class Rollout(Strict):
    """The flag that decides the arm, the gates of a stage, and who is in which."""

    flag: str = Field(min_length=1)
    gates: RolloutGates = RolloutGates()
    min_subjects: int = Field(
        200, ge=10, description="Subjects of the treatment arm below which there is no verdict."
    )
    staging_subjects: list[str] = Field(
        [], description="Ids of those who get the AI in every stage, `staging` included."
    )
    limited_percent: int = Field(10, ge=1, le=20, description="Of the subjects, in the stage `limited`.")
    limited_cohort: Cohort | None = Field(
        None, description="Who gets the AI in the stage `limited`, instead of a percentage."
    )


class Threshold(Strict):
    """A bound that a metric must keep."""

    min: float | None = None
    max: float | None = None


class Evaluation(Strict):
    """The fixed dataset, how answers are scored, and what must be reached on it."""

    dataset: str
    evaluators: list[str | dict[str, Any]] = Field(
        [],
        description="A name, or {name: parameters}; a dotted path names one of your own. By default those "
        "whose metrics the gates name.",
    )
    gates: dict[str, Threshold] = Field({})


SHADOW = "shadow/"
"""Before a feature's name: what its shadow is called in the ledger and among the budgets."""


class Shadow(Strict):
    """A candidate that answers beside the served variant; nobody sees its answers but you."""

    variant: Name
    share: float = Field(0.1, gt=0, le=1, description="Of the treated requests.")
    monthly_usd: float = Field(gt=0, description="A budget of its own.")
    at_once: int = Field(4, ge=1, le=64, description="Most that run at once in one gateway.")


class Drift(Strict):
    """What traffic is compared with what it was."""

    window: int = Field(500, ge=50, le=20_000, description="Inferences of a current window.")
    reference: int = Field(
        2_000, ge=200, le=50_000, description="Inferences of the reference, the first of a version."
    )
    cron: Cron = "17 3 * * *"
    false_discovery_rate: float = Field(0.05, gt=0, lt=0.5, description="Over the columns of a window.")


class Budget(Strict):
    """What the feature may spend."""

    monthly_usd: float = Field(gt=0)


class Example(Strict):
    """A request to show: on start, in the documentation, as a smoke test."""

    input: dict[str, Any] = Field({})
    entity_key: str | None = None


class Manifest(Strict):
    """`feature.yaml`."""

    feature: Name
    owner: str = Field(min_length=1)
    assessment: Assessment
    success_metric: SuccessMetric
    input: dict[str, Any] = Field(description="JSON Schema of the input.")
    output: dict[str, Any] = Field(description="JSON Schema of the output.")
    deadline_ms: int = Field(gt=0, le=60_000)
    variants: dict[Name, Variant] = Field(min_length=1)
    serve: str
    fallback: list[FallbackStep] = Field(min_length=1)
    rollout: Rollout
    evaluation: Evaluation
    budget: Budget
    recording: Recording = Field(Recording(), description="What of inputs and outputs is kept.")
    shadow: Shadow | None = None
    drift: Drift = Drift()
    example: Example

    @property
    def static(self) -> dict[str, Any]:
        """The last step's output, as written."""
        last = self.fallback[-1]
        assert isinstance(last, StaticStep)  # check() refuses anything else
        return last.static

    @property
    def chain(self) -> list[str]:
        """The variants in the order they are tried, the served one first."""
        return [self.serve, *(step for step in self.fallback if isinstance(step, str))]

    @property
    def embedding_model(self) -> str | None:
        """The edge model that the feature uses, the served variant's first; None if it uses none."""
        for name in sorted(self.variants, key=lambda name: name != self.serve):
            spec = self.variants[name]
            if isinstance(spec, EdgeVariant):
                return spec.model
            if isinstance(spec, PrecomputedVariant) and spec.compute.neighbours:
                return spec.compute.neighbours.model
        return None


def parse_manifest(text: str, source: str) -> Manifest:
    """Reads and checks one manifest.

    Raises:
        ManifestError: `detail` has a line `source:line: field: what is wrong` for every fault.
    """
    try:
        located = load_located(text)
    except NotYaml as error:
        raise ManifestError(f"{source}:{error.line}: not YAML: {error}") from error
    data = {} if located.data is None else located.data
    manifest, faults = _validate(data)
    faults = [*located.duplicates, *faults]
    if manifest is None and isinstance(data, dict):
        # An unanswered question must not hide what else is wrong.
        manifest, _ = _validate({**data, "assessment": _ANSWERED})
    if manifest:
        faults += _check(manifest)
    if manifest is None or faults:
        placed = sorted((located.line_of(path), _shown(path), message) for path, message in faults)
        raise ManifestError("\n".join(f"{source}:{line}: {path}: {told}" for line, path, told in placed))
    return manifest


def _validate(data: Any) -> tuple[Manifest | None, list[Fault]]:
    try:
        return Manifest.model_validate(data), []
    except ValidationError as error:
        found = [(_path(e["loc"]), _message(e)) for e in error.errors()]
        return None, [fault for n, fault in enumerate(found) if fault[0] not in {f[0] for f in found[:n]}]


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of a manifest, for editors and other tools."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def variant_version(content: dict[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 of a variant's content, in canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def validator_of(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A validator that looks nothing up outside the schema itself."""
    return jsonschema_rs.validator_for(schema, retriever=_refuse_to_retrieve)


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError(f"$ref {uri!r} leads out of the schema")


def check_schema(schema: dict[str, Any]) -> str | None:
    """Says what is wrong with a JSON Schema, or None."""
    try:
        jsonschema_rs.meta.validate(schema)
        validator_of(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        return f"not a JSON Schema: {getattr(error, 'message', error)}"
    return None


def _check(manifest: Manifest) -> Iterator[Fault]:
    """What no single field shows: references between them, and the schemas."""
    yield from _check_chain(manifest)
    for name in ("input", "output"):
        schema = getattr(manifest, name)
        if fault := check_schema(schema):
            yield (name,), fault
        elif schema.get("type") != "object":
            yield (name,), "must be a schema of type: object"
    for field in _inputs_of(manifest.static) if isinstance(manifest.fallback[-1], StaticStep) else ():
        if not isinstance(field, str) or field not in (manifest.input.get("properties") or {}):
            place: Path = ("fallback", len(manifest.fallback) - 1, "static")
            yield place, f"$input: {field!r} is not a property of input"
    for name, variant in manifest.variants.items():
        yield from _check_variant(manifest, name, variant)
    yield from _check_gates(manifest)
    if manifest.shadow:
        yield from _check_shadow(manifest, manifest.shadow.variant)


def _check_gates(manifest: Manifest) -> Iterator[Fault]:
    for metric, gate in manifest.evaluation.gates.items():
        if gate.min is None and gate.max is None:
            yield ("evaluation", "gates", metric), "give min, max or both"
        elif gate.min is not None and gate.max is not None and gate.min > gate.max:
            yield ("evaluation", "gates", metric), f"min {gate.min} is over max {gate.max}"


def _check_shadow(manifest: Manifest, name: str) -> Iterator[Fault]:
    place: Path = ("shadow", "variant")
    if name not in manifest.variants:
        yield place, f"{name!r} is not a variant; there are {', '.join(manifest.variants)}"
    elif name == manifest.serve:
        yield place, f"{name!r} is served; a shadow is of another"
    elif isinstance(manifest.variants[name], PrecomputedVariant):
        yield place, f"{name!r} is precomputed: compare its results by `trivium compare`"


def _inputs_of(template: Any) -> Iterator[Any]:
    """What a static output takes from the input."""
    if isinstance(template, dict) and "$input" in template:
        yield template["$input"]
    elif isinstance(template, dict | list):
        for item in template.values() if isinstance(template, dict) else template:
            yield from _inputs_of(item)


def _check_chain(manifest: Manifest) -> Iterator[Fault]:
    known = ", ".join(manifest.variants)
    if manifest.serve not in manifest.variants:
        yield ("serve",), f"{manifest.serve!r} is not a variant; there are {known}"
    if isinstance(manifest.fallback[-1], str):
        yield ("fallback", len(manifest.fallback) - 1), "the last step must be static: the non-AI version"
    for position, step in enumerate(manifest.fallback):
        if isinstance(step, StaticStep):
            if position < len(manifest.fallback) - 1:
                yield ("fallback", position), "static always answers, so it can only be the last step"
        elif step not in manifest.variants:
            yield ("fallback", position), f"{step!r} is not a variant; there are {known}"
        elif step in (manifest.serve, *manifest.fallback[:position]):
            yield ("fallback", position), f"{step!r} stands in the chain already; it would be tried twice"


def _check_variant(manifest: Manifest, name: str, variant: Variant) -> Iterator[Fault]:
    here: Path = ("variants", name)
    properties = manifest.input.get("properties") or {}
    if isinstance(variant, EdgeVariant) and variant.text_field not in properties:
        yield (*here, "text_field"), f"{variant.text_field!r} is not a property of input"
    if isinstance(variant, ApiVariant):
        for position, model in enumerate(variant.models):
            if "/" not in model:
                yield (*here, "models", position), f"{model!r} must be provider/model"
    if isinstance(variant, PrecomputedVariant):
        yield from _check_precomputed(manifest, variant, here)
    if variant.timeout_ms is not None and variant.timeout_ms > manifest.deadline_ms:
        yield (*here, "timeout_ms"), f"is over deadline_ms, {manifest.deadline_ms}"


def _check_precomputed(manifest: Manifest, variant: PrecomputedVariant, here: Path) -> Iterator[Fault]:
    if variant.hard_max_age_s < variant.max_age_s:
        yield (*here, "hard_max_age_s"), f"is under max_age_s, {variant.max_age_s}"
    if variant.schedule and not variant.source:
        yield (*here, "schedule"), "needs a source"
    for position, name in enumerate(variant.compute.variants or ()):
        other = manifest.variants.get(name)
        place = (*here, "compute", "variants", position)
        if other is None:
            yield place, f"{name!r} is not a variant; there are {', '.join(manifest.variants)}"
        elif isinstance(other, PrecomputedVariant):
            yield place, f"{name!r} is precomputed itself; name an edge or an api variant"
        elif position == 0 and variant.compute.batch_api and not isinstance(other, ApiVariant):
            yield place, f"{name!r} has no vendor with a batch API; name an api variant"


def _path(loc: Path) -> Path:
    """Pydantic's location without what it adds for a union: the name of the member that it tried."""
    in_union = len(loc) > 2 and loc[0] in ("variants", "fallback")
    return (*loc[:2], *loc[3:]) if in_union else loc


def _shown(path: Path) -> str:
    return ".".join(map(str, path)) or "manifest"


def _message(error: Any) -> str:
    match error["type"]:
        case "missing":
            return "is missing" + (
                ": answer it" if error["loc"][0] == "assessment" and len(error["loc"]) > 1 else ""
            )
        case "extra_forbidden":
            return "is not a key of the format"
        case _:
            given = error.get("input")
            shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
            return f"{error['msg'].removeprefix('Value error, ')}{shown}"
