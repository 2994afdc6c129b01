"""What a run is started with."""

from typing import Any

from trivium.domain.variants import PrecomputedVariant
from trivium.errors import InvalidRequest, NotFound
from trivium.features import Feature, LoadedVariant
from trivium.store.runs import NewRun


def precomputed_variant(
    feature: Feature, name: str | None = None
) -> tuple[LoadedVariant, PrecomputedVariant]:
    """The variant of a feature that is pre-computed: the named one, or the served, or the only one.

    Raises:
        NotFound: there is none of this name, or none at all. InvalidRequest: there are several.
    """
    known = {variant.name: variant for variant in feature.precomputed}
    if not known:
        raise NotFound(f"{feature.name} has no precomputed variant")
    if name is None:
        served = feature.manifest.serve
        name = served if served in known else next(iter(known))
        if name != served and len(known) > 1:
            raise InvalidRequest(f"variant: name one of {', '.join(known)}")
    if name not in known:
        raise NotFound(f"{feature.name} has no precomputed variant {name!r}; there are {', '.join(known)}")
    spec = known[name].spec
    assert isinstance(spec, PrecomputedVariant)
    return known[name], spec


def new_run(feature: Feature, variant: LoadedVariant, source: dict[str, Any], **options: Any) -> NewRun:
    """A run of a variant, with the limits of its manifest.

    Args:
        feature: whose.
        variant: of the pattern precomputed.
        source: `{"kind": "archive" | "source" | "body" | "url" | "refresh", …}`.
        **options: of NewRun.
    """
    spec = variant.spec
    assert isinstance(spec, PrecomputedVariant)
    limits = {"max_error_ratio": spec.max_error_ratio, "max_cost_usd": spec.max_cost_usd}
    return NewRun(
        feature.name,
        variant.name,
        variant.version,
        source,
        selects=spec.compute.neighbours is not None,
        **{**limits, **options},
    )
