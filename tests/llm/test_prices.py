import pytest

from trivium.domain.inference import Usage
from trivium.llm.prices import vendor_cost_usd


def test_a_known_model_costs_what_its_vendor_asks_for_a_call_of_that_size() -> None:
    # gpt-4.1-mini: 0.40 USD a million input tokens, 0.10 of them cached, 1.60 output.
    cost = vendor_cost_usd("openai", "gpt-4.1-mini", Usage(input=1000, output=100, cached_input=500))
    assert cost == pytest.approx(500 * 0.4e-6 + 500 * 0.1e-6 + 100 * 1.6e-6)


def test_a_long_call_does_not_set_the_price_of_a_short_one() -> None:
    short = vendor_cost_usd("openai", "gpt-5.4", Usage(input=1000, output=0))
    long = vendor_cost_usd("openai", "gpt-5.4", Usage(input=1_000_000, output=0))
    assert short is not None
    assert long is not None
    assert long >= 1000 * short


def test_an_unknown_model_has_no_price_instead_of_none_at_all() -> None:
    assert vendor_cost_usd("openai", "nobody-knows-it", Usage(10, 10)) is None
