import pytest

from trivium.domain.cost import Price, cost_usd
from trivium.domain.inference import Usage


def test_input_and_output_have_their_own_price_for_a_million_tokens() -> None:
    assert cost_usd(Usage(1_000_000, 0), Price(3.0, 15.0)) == pytest.approx(3.0)
    assert cost_usd(Usage(0, 1_000_000), Price(3.0, 15.0)) == pytest.approx(15.0)
    assert cost_usd(Usage(2_000, 100), Price(3.0, 15.0)) == pytest.approx(0.0075)


def test_cached_input_is_part_of_the_input_and_is_not_paid_twice() -> None:
    usage = Usage(input=1_000, output=0, cached_input=600)
    assert cost_usd(usage, Price(2.0, 8.0, cached_input_usd=0.5)) == pytest.approx(
        (400 * 2 + 600 * 0.5) / 1e6
    )


def test_cached_input_without_a_price_of_its_own_costs_what_input_costs() -> None:
    price = Price(2.0, 8.0)
    assert cost_usd(Usage(1_000, 10, cached_input=600), price) == cost_usd(Usage(1_000, 10), price)


def test_a_free_cache_is_a_price_of_zero_and_not_a_missing_one() -> None:
    assert cost_usd(Usage(1_000, 0, cached_input=1_000), Price(2.0, 8.0, cached_input_usd=0.0)) == 0.0


def test_an_unknown_price_is_none_and_never_zero() -> None:
    assert cost_usd(Usage(1_000, 10), None) is None


def test_a_model_that_is_free_costs_zero() -> None:
    assert cost_usd(Usage(1_000, 10), Price(0.0, 0.0)) == 0.0
