"""What an attempt costs, from the offline table of `genai-prices`."""

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from trivium.domain.inference import Usage


def vendor_cost_usd(vendor: str, model: str, usage: Usage) -> float | None:
    """USD of one call, with the tiers that depend on its size; None for a model that is not known."""
    spent = PricedUsage(
        input_tokens=usage.input, output_tokens=usage.output, cache_read_tokens=usage.cached_input
    )
    try:
        return float(calc_price(spent, model, provider_id=vendor).total_price)
    except LookupError:
        return None
