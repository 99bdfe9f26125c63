"""Do two matrices over the same items agree? Spearman's rank correlation of their pairs, with a permutation test.

The pairs of m items depend on each other, so that the items are permuted and not the pairs (Mantel 1967, Cancer
Research 27: 209-220).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
_EXACT = 7  # items up to which all permutations are gone through: 5,040
_DRAWS = 10_000


def correlate_pairs(left: Matrix, right: Matrix, *, seed: int = 0) -> tuple[float, float]:
    """Spearman's rho of the upper triangles, and the share of permutations of the items that reach it.

    Args:
        left, right: (m, m) symmetric, m >= 3; the diagonals are not looked at.
        seed: of the permutations, where there are too many to go through.

    Returns:
        rho, -1 to 1, NaN where all pairs of a matrix are equal; and p, one-sided, the identity counted in.

    Raises:
        ValueError: other shapes.
    """
    m = len(left)
    if m < 3 or left.shape != (m, m) or right.shape != (m, m):
        raise ValueError(f"two (m, m) matrices of three items or more are needed, not {left.shape} and {right.shape}")
    pairs = np.triu_indices(m, 1)
    ranks = np.zeros((m, m))
    ranks[pairs] = _ranks(right[pairs])
    ranks += ranks.T  # ranks of pairs go along with the items
    mine = _ranks(left[pairs])
    rho = _correlation(mine, ranks[pairs])
    if math.isnan(rho):
        return rho, math.nan
    found = [_correlation(mine, ranks[np.ix_(order, order)][pairs]) for order in _orders(m, seed)]
    return rho, float(np.mean(np.array(found) >= rho - 1e-12))


def _orders(m: int, seed: int) -> Iterable[npt.NDArray[np.int64]]:
    """Permutations of the items, the identity first."""
    if m <= _EXACT:
        return (np.array(order) for order in itertools.permutations(range(m)))
    draw = np.random.default_rng(seed)
    return itertools.chain([np.arange(m)], (draw.permutation(m) for _ in range(_DRAWS - 1)))


def _ranks(values: Matrix) -> Matrix:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts + 1) / 2)[place], dtype=np.float64)


def _correlation(a: Matrix, b: Matrix) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else math.nan
