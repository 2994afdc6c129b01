import numpy as np
import pytest
from numpy.typing import NDArray

from batch_worker.jobs.neighbours import nearest_others


def _unit(rows: int, width: int, seed: int = 1) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    lengths = np.linalg.norm(made, axis=1, keepdims=True).astype(np.float32)
    return np.asarray(made / lengths, dtype=np.float32)


@pytest.mark.parametrize(("rows", "k"), [(2, 5), (6, 5), (7, 5), (200, 5), (200, 100), (50, 1)])
def test_the_nearest_others_are_those_of_a_plain_sort(rows: int, k: int) -> None:
    matrix = _unit(rows, 16)
    asked = np.array([0, rows // 2, rows - 1])
    nearest, scores = nearest_others(matrix, asked, k)
    assert nearest.shape == scores.shape == (3, min(k, rows - 1))
    for place, row in enumerate(asked):
        cosines = matrix @ matrix[row]
        others = [other for other in np.argsort(-cosines) if other != row][:k]
        assert nearest[place].tolist() == others
        assert np.allclose(scores[place], cosines[others], atol=1e-5)


def test_an_entity_alone_has_no_others_and_nobody_asked_gets_nothing() -> None:
    nearest, scores = nearest_others(_unit(1, 8), np.array([0]), 5)
    assert nearest.shape == scores.shape == (1, 0)
    assert nearest_others(_unit(3, 8), np.array([], dtype=np.int64), 5)[0].shape[0] == 0


def test_twins_find_each_other_but_never_themselves() -> None:
    matrix = _unit(10, 8)
    matrix[7] = matrix[3]
    nearest, scores = nearest_others(matrix, np.array([3, 7]), 2)
    assert nearest[:, 0].tolist() == [7, 3]
    assert np.allclose(scores[:, 0], 1, atol=1e-5)
