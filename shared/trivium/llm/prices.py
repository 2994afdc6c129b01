"""What an attempt costs: what the operator says, else the offline table of `genai-prices`."""

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from trivium.domain.cost import Price, cost_usd
from trivium.domain.inference import Usage


def vendor_cost_usd(vendor: str, model: str, usage: Usage) -> float | None:
    """USD of one call, with the tiers that depend on its size; None for a model that is not known."""
    spent = PricedUsage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
    )
    try:
        return float(calc_price(spent, model, provider_id=vendor).total_price)
    except LookupError:
        return None


class Tariff:
    """Prices by the name of a target; those of routes come and go with their file."""

    def __init__(self, local: Price | None = None) -> None:
        self._local = local
        self.overrides: dict[str, Price] = {}
        self._not_known: set[tuple[str, str]] = set()

    def cost_usd(self, target: str, usage: Usage) -> float | None:
        """USD of a call to `provider/model` or `provider/model@address`; None if its price is not known."""
        if override := self.overrides.get(target):
            return cost_usd(usage, override)
        vendor, _, rest = target.partition("/")
        model = rest.partition("@")[0]
        if vendor == "local":
            return cost_usd(usage, self._local)
        if (vendor, model) in self._not_known:
            return None
        cost = vendor_cost_usd(vendor, model, usage)
        if cost is None and len(self._not_known) < 10_000:
            self._not_known.add((vendor, model))
        return cost

    def is_free(self, target: str) -> bool:
        """Whether a call costs nothing, so that no budget need be asked."""
        price = self.overrides.get(target) or (self._local if target.startswith("local/") else None)
        return price is not None and price.input_usd == price.output_usd == 0
