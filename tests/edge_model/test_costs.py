"""The cost model: interpolation, when batching pays, and how it follows what runs take."""

import pytest

from edge_model.costs import MAX_ROWS, ROWS, CostModel


def _filled(cost_of_a_row: float = 0.5, max_tokens: int = 64) -> CostModel:
    made = CostModel(max_tokens)
    made.fill({(w, r): w * (1 + (r - 1) * cost_of_a_row) for w in made.widths for r in ROWS})
    return made


def test_between_the_measured_points_it_is_linear() -> None:
    costs = _filled()
    assert costs.predict_ms(20, 1) == pytest.approx(20)
    assert costs.predict_ms(16, 3) == pytest.approx(16 * 2)
    assert costs.predict_ms(1, 1) == costs.predict_ms(4, 1)


@pytest.mark.parametrize("max_tokens", [3, 8, 64, 100, 512])
def test_every_width_up_to_the_models_longest_has_a_cost(max_tokens: int) -> None:
    costs = _filled(max_tokens=max_tokens)
    assert costs.widths[-1] == max_tokens
    for width in range(1, max_tokens + 1):
        assert all(costs.predict_ms(width, rows) > 0 for rows in range(1, MAX_ROWS + 1))


@pytest.mark.parametrize(("cost_of_a_row", "best"), [(1.0, 1), (0.97, 1), (0.5, 8), (0.92, 1), (0.85, 2)])
def test_a_batch_is_worth_it_while_it_makes_rows_cheaper(cost_of_a_row: float, best: int) -> None:
    assert _filled(cost_of_a_row).best_rows(16) == best


def test_the_ratio_follows_what_runs_take_and_relaxes() -> None:
    costs = _filled()
    for _ in range(200):
        costs.observe(costs.predict_ms(16), 32)
    assert costs.predict_ms(16, 1) == pytest.approx(32, rel=0.01)
    costs.observe(costs.predict_ms(16), 1e9)
    assert costs.ratio < 3
    for _ in range(200):
        costs.relax()
    assert costs.ratio == pytest.approx(1, rel=0.01)
    for _ in range(200):
        costs.observe(costs.predict_ms(16), 8)
    costs.relax()
    assert costs.predict_ms(16, 1) == pytest.approx(8, rel=0.01)


def test_a_model_that_runs_rows_one_by_one_needs_no_table_of_batches() -> None:
    costs = CostModel(64)
    costs.fill({(width, 1): float(width) for width in costs.widths})
    assert costs.predict_ms(20) == pytest.approx(20)
    assert costs.best_rows(20) == 1
