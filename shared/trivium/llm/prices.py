"""Prices of models, from the offline table of `genai-prices`."""

from functools import lru_cache

from genai_prices import Usage, calc_price

from trivium.domain.cost import Price

_MILLION = 1_000_000


@lru_cache(maxsize=1024)
def price_of(provider: str, model: str) -> Price | None:
    """USD for a million tokens, or None for a model that the table does not know."""
    try:
        fresh = calc_price(Usage(input_tokens=_MILLION), model, provider_id=provider)
        cached = calc_price(
            Usage(input_tokens=_MILLION, cache_read_tokens=_MILLION), model, provider_id=provider
        )
        output = calc_price(Usage(output_tokens=_MILLION), model, provider_id=provider)
    except LookupError:
        return None
    return Price(float(fresh.total_price), float(output.total_price), float(cached.total_price))
