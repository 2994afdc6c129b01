"""Builds the steps of a feature's variants, and prices what they tried."""

from dataclasses import dataclass, replace

import aiohttp
import structlog

from trivium.domain.cost import Price, cost_usd
from trivium.domain.fallback import Step, static_step
from trivium.domain.inference import Attempt, ServedBy
from trivium.domain.manifest import ApiVariant, EdgeVariant, PrecomputedVariant
from trivium.edge import EdgeClient
from trivium.errors import BreakerOpen, ConfigurationError
from trivium.features import Feature, LoadedVariant
from trivium.llm.anthropic import AnthropicProvider
from trivium.llm.anthropic_batches import AnthropicBatches
from trivium.llm.batches import BatchProvider
from trivium.llm.openai import OpenAIProvider
from trivium.llm.openai_batches import OpenAIBatches
from trivium.llm.prices import vendor_cost_usd
from trivium.llm.provider import Provider
from trivium.llm.settings import ProviderSettings
from trivium.metrics import COST_USD, TOKENS, UNPRICED
from trivium.patterns.api import ApiStep
from trivium.patterns.edge import EdgeStep
from trivium.patterns.precomputed import PrecomputedStep
from trivium.store.results import ResultRepository

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backends:
    """What the patterns answer from."""

    providers: dict[str, Provider]
    edge: EdgeClient
    results: ResultRepository
    local_price: Price | None


def make_providers(settings: ProviderSettings, session: aiohttp.ClientSession) -> dict[str, Provider]:
    """The providers that have what they need."""
    base_url = settings.resolved_local_base_url
    providers: dict[str, Provider] = {"local": OpenAIProvider("local", base_url, None, session)}
    if settings.openai_api_key:
        secret = settings.openai_api_key.get_secret_value()
        providers["openai"] = OpenAIProvider("openai", settings.openai_base_url, secret, session)
    if settings.anthropic_api_key:
        secret = settings.anthropic_api_key.get_secret_value()
        providers["anthropic"] = AnthropicProvider("anthropic", settings.anthropic_base_url, secret, session)
    return providers


def make_batch_providers(
    settings: ProviderSettings, session: aiohttp.ClientSession
) -> dict[str, BatchProvider]:
    """The vendors' batch APIs, by the same keys."""
    made: dict[str, BatchProvider] = {}
    if settings.openai_api_key:
        secret = settings.openai_api_key.get_secret_value()
        made["openai"] = OpenAIBatches("openai", settings.openai_base_url, secret, session)
    if settings.anthropic_api_key:
        secret = settings.anthropic_api_key.get_secret_value()
        made["anthropic"] = AnthropicBatches("anthropic", settings.anthropic_base_url, secret, session)
    return made


def chain_of(feature: Feature, backends: Backends) -> list[Step]:
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
    share_s = feature.manifest.deadline_ms / 1000 / len(steps)
    granted = [replace(step, granted_s=min(share_s, step.timeout_s or share_s)) for step in steps]
    return [*granted, static_step(feature.manifest.static)]


def steps_of(feature: Feature, name: str, backends: Backends) -> list[Step]:
    """The steps of one variant: one a model; models of providers that are not configured are left out."""
    variant = feature.variants[name]
    spec = variant.spec
    timeout_s = spec.timeout_ms / 1000 if spec.timeout_ms else None
    by = ServedBy(name, spec.pattern, name, variant.version)
    if isinstance(spec, EdgeVariant):
        edge = EdgeStep(spec, feature.manifest.output, backends.edge)
        return [Step(by, f"edge/{spec.model}", edge, timeout_s=timeout_s)]
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
) -> list[Step]:
    steps = []
    for target in spec.models:
        vendor, _, model = target.partition("/")
        provider = backends.providers.get(vendor)
        if provider is None:
            log.warning("provider_not_configured", variant=variant.name, model=target)
            continue
        ask = ApiStep(variant, provider, model)
        ask.render(feature.manifest.example.input)  # a prompt that cannot be filled fails here
        steps.append(Step(by, target, ask, retries=spec.retries, timeout_s=timeout_s))
    return steps


def price(feature: str, attempt: Attempt, local_price: Price | None, share: float = 1.0) -> None:
    """Sets what an attempt cost: nothing without tokens, None where the price is unknown.

    Args:
        feature: whose.
        attempt: that is priced.
        local_price: of self-hosted models.
        share: of a vendor's price, where it has another way of being asked.
    """
    by, usage = attempt.served_by, attempt.usage
    vendor, _, model = attempt.target.partition("/")
    local = by.pattern != "api" or vendor == "local"
    if usage is None:
        # What a vendor billed for an attempt that told no usage is not known, unless it was not asked.
        attempt.cost_usd = 0.0 if local or attempt.outcome == BreakerOpen.code else None
        return
    cost = cost_usd(usage, local_price) if local else vendor_cost_usd(vendor, model, usage)
    attempt.cost_usd = None if cost is None else cost * share
    for kind in ("input", "cached_input", "output"):
        TOKENS.labels(feature, by.variant, attempt.target, kind).inc(getattr(usage, kind))
    if attempt.cost_usd is None:
        UNPRICED.labels(feature, by.variant, attempt.target).inc()
    else:
        COST_USD.labels(feature, by.variant, attempt.target).inc(attempt.cost_usd)
