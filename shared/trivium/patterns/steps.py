"""Builds the steps of a feature's variants, and prices what they tried."""

from dataclasses import dataclass, replace

import aiohttp
import structlog

from trivium.domain.cost import Price
from trivium.domain.fallback import Step, static_step
from trivium.domain.inference import Attempt, Question, ServedBy, StepAnswer
from trivium.domain.route import PREFIX
from trivium.domain.variants import ApiVariant, EdgeVariant, PrecomputedVariant
from trivium.edge import EdgeClient
from trivium.errors import (
    BreakerOpen,
    BudgetExhausted,
    ConfigurationError,
    LowConfidence,
    OutOfScope,
    TargetBusy,
)
from trivium.features import Feature, LoadedVariant
from trivium.llm.anthropic_batches import AnthropicBatches
from trivium.llm.batches import BatchProvider
from trivium.llm.keyring import KeyRing
from trivium.llm.openai_batches import OpenAIBatches
from trivium.llm.prices import Tariff
from trivium.llm.provider import Provider
from trivium.llm.settings import BackendSettings, ProviderSettings
from trivium.llm.targets import ProviderMaker
from trivium.metrics import COST_USD, TOKENS, UNPRICED
from trivium.patterns.api import ApiStep
from trivium.patterns.edge import EdgeStep
from trivium.patterns.precomputed import PrecomputedStep
from trivium.patterns.routes import RouteTable
from trivium.store.results import ResultRepository

log = structlog.get_logger()
FeatureStep = Step[Question, StepAnswer]
ABSTAINED = frozenset({LowConfidence.code, OutOfScope.code})
NOT_ASKED = frozenset({BreakerOpen.code, BudgetExhausted.code, TargetBusy.code})


@dataclass(frozen=True, slots=True)
class Backends:
    """What the patterns answer from."""

    providers: dict[str, Provider]
    edge: EdgeClient
    results: ResultRepository
    tariff: Tariff
    routes: RouteTable


def make_backends(
    settings: BackendSettings, session: aiohttp.ClientSession, results: ResultRepository
) -> Backends:
    """What is configured; raises ConfigurationError for routes that are not right."""
    maker = ProviderMaker(settings, session)
    local = settings.local_usd_per_million_tokens
    tariff = Tariff(None if local is None else Price(local, local))
    routes = RouteTable(settings.resolved_routes_file, maker, tariff)
    routes.load()
    edge = EdgeClient(settings.resolved_edge_url, settings.service_key.get_secret_value(), session)
    return Backends(maker.own(), edge, results, tariff, routes)


def make_batch_providers(
    settings: ProviderSettings, session: aiohttp.ClientSession
) -> dict[str, BatchProvider]:
    """The vendors' batch APIs, by the first of the same keys: a batch belongs to its key's account."""
    maker = ProviderMaker(settings, session)
    made: dict[str, BatchProvider] = {}
    if keys := maker.keys_of("openai"):
        made["openai"] = OpenAIBatches("openai", settings.openai_base_url, KeyRing(keys[:1]), session)
    if keys := maker.keys_of("anthropic"):
        ring = KeyRing(keys[:1])
        made["anthropic"] = AnthropicBatches("anthropic", settings.anthropic_base_url, ring, session)
    return made


def chain_of(feature: Feature, backends: Backends) -> list[FeatureStep]:
    """What answers a request to a feature: its variants in order, and the static step.

    Raises:
        ConfigurationError: the served variant's provider is not configured.
    """
    steps = [step for name in feature.manifest.chain for step in steps_of(feature, name, backends)]
    served = feature.manifest.serve
    if not any(step.served_by.variant == served for step in steps):
        raise ConfigurationError(
            f"{feature.name} serves {served}, but none of its providers is configured "
            f"(there are {', '.join(backends.providers)}); set its key, or serve another variant"
        )
    return _ending_static(feature, steps)


def alone(feature: Feature, name: str, backends: Backends) -> list[FeatureStep]:
    """One variant's own steps, and the static step that tells when none of them answered.

    Raises:
        ConfigurationError: none of the variant's providers is configured.
    """
    steps = steps_of(feature, name, backends)
    if not steps:
        raise ConfigurationError(
            f"{feature.name}: none of the providers of {name} is configured (there are "
            f"{', '.join(backends.providers)}); set its key"
        )
    return _ending_static(feature, steps)


def _ending_static(feature: Feature, steps: list[FeatureStep]) -> list[FeatureStep]:
    share_s = feature.manifest.deadline_ms / 1000 / len(steps)
    granted = [replace(step, granted_s=min(share_s, step.timeout_s or share_s)) for step in steps]
    return [*granted, static_step(feature.manifest.static)]


def steps_of(feature: Feature, name: str, backends: Backends) -> list[FeatureStep]:
    """The steps of one variant: one a model; models of providers that are not configured are left out."""
    variant = feature.variants[name]
    spec = variant.spec
    timeout_s = spec.timeout_ms / 1000 if spec.timeout_ms else None
    by = ServedBy(name, spec.pattern, name, variant.version)
    if isinstance(spec, EdgeVariant):
        edge = EdgeStep(spec, feature.manifest.output, backends.edge)
        cascades_on = ABSTAINED if spec.cascade else frozenset()
        return [Step(by, f"edge/{spec.model}", edge, timeout_s=timeout_s, cascades_on=cascades_on)]
    if isinstance(spec, PrecomputedVariant):
        stored = PrecomputedStep(feature, variant, backends.results)
        return [Step(by, "store", stored, timeout_s=timeout_s)]
    return _api_steps(feature, variant, spec, by, backends, timeout_s)


def _api_steps(
    feature: Feature,
    variant: LoadedVariant,
    spec: ApiVariant,
    by: ServedBy,
    backends: Backends,
    timeout_s: float | None,
) -> list[FeatureStep]:
    steps: list[FeatureStep] = []
    for named in spec.models:
        if named.startswith(PREFIX):
            steps += _by_route(feature, variant, spec, by, backends, named, timeout_s)
            continue
        vendor, _, model = named.partition("/")
        provider = backends.providers.get(vendor)
        if provider is None:
            log.warning("provider_not_configured", variant=variant.name, model=named)
            continue
        ask = ApiStep(variant, provider, model, feature.manifest.input)
        steps.append(_api_step(feature, ask, Step(by, named, ask, spec.retries, timeout_s)))
    return steps


def _by_route(
    feature: Feature,
    variant: LoadedVariant,
    spec: ApiVariant,
    by: ServedBy,
    backends: Backends,
    named: str,
    timeout_s: float | None,
) -> list[FeatureStep]:
    """A route's targets, with its time-outs and its breakers, for a variant's prompt."""
    route = backends.routes.find(named)
    if not route.targets:
        log.warning("provider_not_configured", variant=variant.name, model=named)
    likes = backends.routes.all_steps_of(route, named)
    lot = route.lot if route.spec.order == "weighted" else None
    steps = []
    for place, live in sorted(route.targets.items()):
        like = likes[place]
        times = live.spec.timeouts
        ask = ApiStep(variant, live.provider, live.spec.model_for(named), feature.manifest.input, times)
        own_s = min(times.total_s, timeout_s or times.total_s)
        step = Step(by, like.target, ask, live.spec.retries, own_s, gate=live.gate, lot=lot)
        steps.append(_api_step(feature, ask, replace(step, context_tokens=live.spec.context_tokens)))
    return steps


def _api_step(feature: Feature, ask: ApiStep, step: FeatureStep) -> FeatureStep:
    ask.render(feature.manifest.example.input)  # a prompt that cannot be filled fails here
    return replace(step, repair=ask.repair)


def price(feature: str, attempt: Attempt, tariff: Tariff, share: float = 1.0) -> None:
    """Sets what an attempt cost: nothing without tokens, None where the price is unknown.

    Args:
        feature: whose.
        attempt: that is priced.
        tariff: the prices.
        share: of a price, where the vendor has another way of being asked.
    """
    by, usage = attempt.served_by, attempt.usage
    if usage is None:
        # What a vendor billed for an attempt that told no usage is not known, unless it was not asked.
        known = by.pattern != "api" or attempt.outcome in NOT_ASKED or tariff.is_free(attempt.target)
        attempt.cost_usd = 0.0 if known else None
        return
    cost = tariff.cost_usd(attempt.target, usage) if by.pattern == "api" else 0.0
    attempt.cost_usd = None if cost is None else cost * share
    name = by.variant or by.step
    for kind in ("input", "cached_input", "cache_write", "output", "reasoning"):
        if tokens := getattr(usage, kind):
            TOKENS.labels(feature, name, attempt.target, kind).inc(tokens)
    if attempt.cost_usd is None:
        UNPRICED.labels(feature, name, attempt.target).inc()
    else:
        COST_USD.labels(feature, name, attempt.target).inc(attempt.cost_usd)
