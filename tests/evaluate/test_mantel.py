"""The agreement of two matrices against scipy's Spearman, and its p against what chance gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from graft.evaluate.mantel import mantel_test


def draw(m: int, seed: int, places: int = 9) -> np.ndarray:
    values = np.round(np.random.default_rng(seed).random((m, m)), places)
    return np.asarray(np.triu(values, 1) + np.triu(values, 1).T)


@pytest.mark.parametrize("places", [9, 1])  # with and without ties
def test_rho_is_spearmans(places: int) -> None:
    for seed in range(5):
        left, right = draw(6, seed, places), draw(6, seed + 50, places)
        pairs = np.triu_indices(6, 1)
        assert mantel_test(left, right)[0] == pytest.approx(spearmanr(left[pairs], right[pairs]).statistic)


def test_a_matrix_agrees_with_any_growing_function_of_itself() -> None:
    left = draw(6, 0)
    assert mantel_test(left, left**3) == pytest.approx((1, 1 / math.factorial(6)))
    assert mantel_test(left, -left)[0] == pytest.approx(-1)
    many = draw(9, 0)
    rho, p = mantel_test(many, many)
    assert rho == pytest.approx(1)
    assert p <= 0.001


def test_p_is_uniform_where_nothing_agrees() -> None:
    found = np.array([mantel_test(draw(5, seed), draw(5, seed + 1000))[1] for seed in range(200)])
    assert found.min() >= 1 / 120
    assert found.mean() == pytest.approx(0.5, abs=0.08)
    assert (found <= 0.1).mean() == pytest.approx(0.1, abs=0.07)


def test_the_items_order_does_not_matter() -> None:
    left, right = draw(6, 1), draw(6, 2)
    order = np.array([3, 1, 5, 0, 4, 2])
    shuffled = left[np.ix_(order, order)], right[np.ix_(order, order)]
    assert mantel_test(*shuffled) == pytest.approx(mantel_test(left, right))


def test_what_has_no_order_has_no_agreement() -> None:
    assert all(math.isnan(x) for x in mantel_test(np.ones((4, 4)), draw(4, 0)))
    with pytest.raises(ValueError, match="three items or more"):
        mantel_test(np.ones((2, 2)), np.ones((2, 2)))
