"""What an attempt costs."""

from dataclasses import dataclass

from trivium.domain.inference import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens, by kind."""

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None


def cost_usd(usage: Usage, price: Price | None) -> float | None:
    """Tokens times price. An unknown price gives None, never 0."""
    if price is None:
        return None
    cached_rate = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
    fresh = usage.input - usage.cached_input
    total = fresh * price.input_usd + usage.cached_input * cached_rate + usage.output * price.output_usd
    return total / 1_000_000
