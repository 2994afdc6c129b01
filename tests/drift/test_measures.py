"""Distances of many draws at once, against scipy's of one."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from trivium.drift.columns import words_of
from trivium.drift.measures import Categories, Distributions, Energy, Means, Tokens

N, SIZE, DRAWS = 60, 17, 25


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(8)


@pytest.fixture
def chosen(random: np.random.Generator) -> np.ndarray:
    return np.stack([random.permutation(N)[:SIZE] for _ in range(DRAWS)])


def _halves(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = np.isin(np.arange(N), rows)
    return values[inside], values[~inside]


@pytest.mark.parametrize("ties", [False, True])
def test_distributions_are_those_of_scipy(
    random: np.random.Generator, chosen: np.ndarray, ties: bool
) -> None:
    values = random.integers(0, 6, N).astype(float) if ties else random.normal(size=N)
    expected = [stats.ks_2samp(*_halves(values, rows)).statistic for rows in chosen]
    assert Distributions(values).between(chosen) == pytest.approx(expected)


def test_means_and_categories(random: np.random.Generator, chosen: np.ndarray) -> None:
    values, codes = random.random(N), random.integers(0, 5, N)
    means, shares = [], []
    for rows in chosen:
        a, b = _halves(values, rows)
        means.append(abs(a.mean() - b.mean()))
        shares.append(
            jensenshannon(*(np.bincount(some, minlength=5) for some in _halves(codes, rows)), base=2)
        )
    assert Means(values).between(chosen) == pytest.approx(means)
    assert Categories(codes, 5).between(chosen) == pytest.approx(shares)


def test_words_are_counted_by_whole_texts(random: np.random.Generator, chosen: np.ndarray) -> None:
    texts = [" ".join(random.choice(list("abcdefg"), random.integers(0, 6))) for _ in range(N)]
    words = words_of(range(N), texts)
    expected = []
    for rows in chosen:
        parts = [" ".join(some).split() for some in _halves(np.asarray(texts), rows)]
        counts = [[part.count(letter) for letter in "abcdefg"] for part in parts]
        expected.append(jensenshannon(*counts, base=2))
    assert Tokens(words.starts, words.hashes, 4_096).between(chosen) == pytest.approx(expected)


def test_energy_is_that_of_scipy_in_one_dimension(random: np.random.Generator, chosen: np.ndarray) -> None:
    values = random.normal(size=N)
    expected = [stats.energy_distance(*_halves(values, rows)) for rows in chosen]
    found = Energy(values[:, None].astype(np.float32)).between(chosen)
    # scipy's is the root of twice the integral, which in one dimension is the same expectation.
    assert found == pytest.approx(expected, abs=2e-3)


def test_nothing_is_not_a_distance() -> None:
    rows = np.array([[0, 1]])
    assert Categories(np.zeros(5, np.int64), 1).between(rows).tolist() == [0.0]
    empty = words_of(range(4), ["", "", "", ""])
    assert Tokens(empty.starts, empty.hashes, 64).between(rows).tolist() == [0.0]
    half = words_of(range(4), ["", "", "a", "b"])
    assert Tokens(half.starts, half.hashes, 64).between(rows).tolist() == [1.0]
    assert Energy(np.ones((5, 3), np.float32)).between(rows).tolist() == [0.0]
